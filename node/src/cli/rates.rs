//! Rates as names and values: `key.requests=60`, `class.priority.tokens=none`.

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use tally_ledger::{
    genesis::Genesis,
    ids::{Amount, ClassNumber},
    rates::{ClassRate, NO_LIMIT, Rate, Rates},
};

use super::{genesis_config::bounded, names};

/// How the absence of a limit is written.
const NONE: &str = "none";

/// All of them by name, in the order in which they are explained.
pub(crate) fn shown(rates: &Rates, genesis: &Genesis) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("fee_unit".to_owned(), json!(rates.fee_unit));
    let mut insert = |name: &str, rate: Rate| {
        for (what, limit) in [("requests", rate.requests), ("tokens", rate.tokens)] {
            let limit = match limit {
                NO_LIMIT => json!(NONE),
                limit => json!(limit),
            };
            all.insert(format!("{name}.{what}"), limit);
        }
    };
    insert("key", rates.key);
    insert("account", rates.account);
    for ClassRate { class, rate } in rates.classes.iter() {
        let rules = genesis.classes.get(usize::from(class.0));
        let name = rules.map_or_else(|| class.0.to_string(), |rules| rules.name.clone());
        insert(&format!("class.{name}"), *rate);
    }
    all
}

/// `now` with what is named changed.
pub(crate) fn changed(now: &Rates, changes: &[String], genesis: &Genesis) -> anyhow::Result<Rates> {
    let mut rates = now.clone();
    for change in changes {
        let (name, text) = change.split_once('=').context("write NAME=VALUE")?;
        if name == "fee_unit" {
            rates.fee_unit = Amount::parse(text)
                .with_context(|| format!("`{text}` is no amount in CT, such as 0.001"))?;
            continue;
        }
        let known = name.rsplit_once('.').context(unknown(name))?;
        let limit = limit(text)?;
        match known {
            ("key", what) => set(&mut rates.key, what, limit)?,
            ("account", what) => set(&mut rates.account, what, limit)?,
            (scope, what) => {
                let class = scope.strip_prefix("class.").context(unknown(name))?;
                set_class(&mut rates, names::class(genesis, class)?, what, limit)?;
            }
        }
    }
    rates.validate()?;
    Ok(rates)
}

fn unknown(name: &str) -> String {
    format!(
        "there is no rate `{name}`; there are fee_unit, and key, account and class.NAME, each \
         with .requests and .tokens"
    )
}

fn limit(text: &str) -> anyhow::Result<u32> {
    if text == NONE {
        return Ok(NO_LIMIT);
    }
    let limit = text.parse::<u32>();
    limit.with_context(|| format!("`{text}` is no number per minute, nor `{NONE}`"))
}

fn set(rate: &mut Rate, what: &str, limit: u32) -> anyhow::Result<()> {
    match what {
        "requests" => rate.requests = limit,
        "tokens" => rate.tokens = limit,
        _ => bail!("`{what}`: a rate has .requests and .tokens"),
    }
    Ok(())
}

/// A class without a limit is left out.
fn set_class(rates: &mut Rates, class: ClassNumber, what: &str, limit: u32) -> anyhow::Result<()> {
    let mut rate = rates.class(class);
    set(&mut rate, what, limit)?;
    let mut classes = rates.classes.to_vec();
    classes.retain(|of| of.class != class);
    if rate != Rate::NONE {
        classes.push(ClassRate { class, rate });
    }
    classes.sort_unstable_by_key(|of| of.class);
    rates.classes = bounded(classes, "classes")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tally_ledger::{block::ValidatorSet, codec::List, genesis::GENESIS_VERSION, ids::Time};

    use super::*;
    use crate::cli::genesis_config::{EXAMPLE, GenesisConfig};

    /// A genesis with the example's classes and nobody.
    fn example() -> Genesis {
        let config: GenesisConfig = toml::from_str(EXAMPLE).unwrap();
        let prices = config.prices().unwrap();
        Genesis {
            version: GENESIS_VERSION,
            name: "example".into(),
            time: Time(1),
            persons: List::default(),
            validators: ValidatorSet(List::default()),
            classes: List::new(config.classes(&prices).unwrap()).unwrap(),
            prices,
            parameters: config.parameters(1).unwrap(),
            gateways: List::default(),
        }
    }

    #[test]
    fn what_is_shown_can_be_set() {
        let genesis = example();
        let set = |now: &Rates, text: &str| {
            let changes: Vec<_> = text.split(' ').map(str::to_owned).collect();
            changed(now, &changes, &genesis)
        };
        let name = &genesis.classes[1].name;
        let text = format!("fee_unit=0.002 key.requests=60 class.{name}.tokens=9 class.0.tokens=8");
        let rates = set(&Rates::default(), &text).unwrap();
        let shown = shown(&rates, &genesis);
        assert_eq!(shown["fee_unit"], "0.002000");
        assert_eq!(shown["key.requests"], 60);
        assert_eq!(shown["account.tokens"], "none");
        assert_eq!(shown[&format!("class.{name}.tokens")], 9);
        assert!(rates.are_ordered() && rates.classes.len() == 2);
        let names = shown.iter().map(|(name, value)| {
            let text = value.as_str().map(str::to_owned);
            format!("{name}={}", text.unwrap_or_else(|| value.to_string()))
        });
        let again = set(&Rates::default(), &names.collect::<Vec<_>>().join(" "));
        assert_eq!(again.unwrap(), rates);
        // The rest stays, and a class without a limit goes.
        let fewer = set(&rates, &format!("class.{name}.tokens=none")).unwrap();
        assert_eq!((fewer.classes.len(), fewer.key.requests), (1, 60));
        for bad in [
            "fee_unit",
            "fee_unit=0",
            "fee_unit=1001",
            "key=1",
            "key.requests=0",
            "key.requests=-1",
            "key.bytes=1",
            "other.requests=1",
            "class.nobody.requests=1",
        ] {
            assert!(set(&rates, bad).is_err(), "{bad}");
        }
    }
}
