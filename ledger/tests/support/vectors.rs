//! Golden vectors: stored files in `vectors/`, compared with what is computed.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::{fs, path::Path};

use serde_json::{Map, Value};

/// Compares with the stored file, or writes it when told to.
pub fn check(name: &str, computed: Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let path = folder.join(name).with_extension("json");
    if std::env::var("TALLY_WRITE_VECTORS").is_ok_and(|value| value == "1") {
        let mut text = serde_json::to_string_pretty(&computed).unwrap();
        text.push('\n');
        fs::create_dir_all(&folder).unwrap();
        return fs::write(&path, text).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let stored: Value = serde_json::from_str(&text).unwrap();
    same(name, &stored, &computed);
}

/// Names the first difference.
fn same(at: &str, stored: &Value, computed: &Value) {
    if let (Value::Object(stored), Value::Object(computed)) = (stored, computed) {
        let names = |object: &Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(stored), names(computed), "{at}: other names");
        for (name, value) in stored {
            same(&format!("{at}/{name}"), value, &computed[name]);
        }
    } else if let (Value::Array(stored), Value::Array(computed)) = (stored, computed) {
        assert_eq!(stored.len(), computed.len(), "{at}: other length");
        for (i, (stored, computed)) in stored.iter().zip(computed).enumerate() {
            same(&format!("{at}/{i}"), stored, computed);
        }
    } else {
        assert_eq!(stored, computed, "{at} has changed");
    }
}
