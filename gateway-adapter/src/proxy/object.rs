//! A JSON object whose values stay the bytes that the client sent.
//!
//! The proxy reads a few fields and changes fewer; everything else must
//! reach the engine untouched (numbers of any size, unknown fields, order).
//! A name that appears twice is refused: two readers might take different
//! ones, and the gateway would price what the engine does not run.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Most fields; each is compared with all before it.
const MAX_FIELDS: usize = 256;

/// Fields in their order.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    if fields.len() >= MAX_FIELDS {
                        let why = format!("more than {MAX_FIELDS} fields");
                        return Err(A::Error::custom(why));
                    }
                    if fields.iter().any(|(known, _)| *known == name.0) {
                        return Err(A::Error::custom(format!("`{}` appears twice", name.0)));
                    }
                    fields.push((name.0, Cow::Borrowed(map.next_value::<&RawValue>()?)));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Object<'a> {
    /// Reads one.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The bytes of a field; `None` if it is absent or `null`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(known, _)| known == name)?;
        Some(field.1.get()).filter(|json| *json != "null")
    }

    /// The fields' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    /// A field as a type; `None` if it is absent or `null`.
    pub fn read<'s, T: Deserialize<'s>>(
        &'s self,
        name: &str,
    ) -> Result<Option<T>, serde_json::Error> {
        self.get(name).map(serde_json::from_str).transpose()
    }

    /// Sets a field, in its place or at the end.
    pub fn set(&mut self, name: &'static str, json: String) {
        let Ok(value) = RawValue::from_string(json) else {
            return;
        };
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = Cow::Owned(value),
            None => self.0.push((Cow::Borrowed(name), Cow::Owned(value))),
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// The object as JSON.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(
            64 + self
                .0
                .iter()
                .map(|(n, v)| n.len() + v.get().len() + 6)
                .sum::<usize>(),
        );
        out.push('{');
        for (i, (name, value)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(name.as_ref()).to_string());
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_fields_than_any_request_has_are_refused() {
        let fields = |count: usize| {
            let all: Vec<String> = (0..count).map(|i| format!("\"f{i}\":0")).collect();
            format!("{{{}}}", all.join(","))
        };
        assert!(Object::parse(fields(MAX_FIELDS).as_bytes()).is_ok());
        assert!(Object::parse(fields(MAX_FIELDS + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let json = br#"{"a": 1.50 , "b\u0041":[1, 2],"n":123456789012345678901234567890,"c":null}"#;
        let mut object = Object::parse(json).unwrap();
        assert_eq!(object.get("a"), Some("1.50"));
        assert_eq!(object.get("c"), None);
        object.set("a", "2".into());
        object.set("new", "{\"x\":1}".into());
        let wanted =
            r#"{"a":2,"bA":[1, 2],"n":123456789012345678901234567890,"c":null,"new":{"x":1}}"#;
        assert_eq!(object.to_json(), wanted);
    }

    #[test]
    fn a_name_that_appears_twice_is_refused() {
        assert!(Object::parse(br#"{"max_tokens":1,"max_tokens":9}"#).is_err());
        assert!(Object::parse(br#"{"max_tokens":1,"max_\u0074okens":9}"#).is_err());
        assert!(Object::parse(b"[]").is_err());
    }
}
