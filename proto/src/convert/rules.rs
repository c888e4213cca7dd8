//! What governs: class rules, prices, parameters, rates, caps.

use tally_ledger::{
    class::{Burn, ClassRules, MAX_NAME_BYTES},
    gateway::Caps,
    ids::{Amount, ClassNumber, ModelNumber, TableVersion},
    parameters::Parameters,
    price::{MAX_MODEL_NAME, Meter, Model, PriceTable},
    rates::{ClassRate, NO_LIMIT, Rate, Rates},
};

use super::{FieldError, collect, u16_of};
use crate::v1;

const NO_CAP: Amount = Amount(u64::MAX);

/// An amount for which absence means "no cap".
pub(super) fn cap(amount: Option<u64>) -> Amount {
    amount.map_or(NO_CAP, Amount)
}

/// The other way round.
pub(super) fn uncap(amount: Amount) -> Option<u64> {
    (amount != NO_CAP).then_some(amount.0)
}

fn name(field: &'static str, name: String, most: usize) -> Result<String, FieldError> {
    if name.len() > most {
        return Err(FieldError::new(
            field,
            format!("has more than {most} bytes"),
        ));
    }
    Ok(name)
}

impl From<Burn> for v1::Burn {
    fn from(from: Burn) -> Self {
        match from {
            Burn::IssuerOnly => v1::Burn::IssuerOnly,
            Burn::HolderOnly => v1::Burn::HolderOnly,
            Burn::Both => v1::Burn::Both,
            Burn::Neither => v1::Burn::Neither,
        }
    }
}

impl TryFrom<v1::Burn> for Burn {
    type Error = FieldError;

    fn try_from(from: v1::Burn) -> Result<Self, FieldError> {
        match from {
            v1::Burn::Unspecified => Err(FieldError::missing("burn")),
            v1::Burn::IssuerOnly => Ok(Burn::IssuerOnly),
            v1::Burn::HolderOnly => Ok(Burn::HolderOnly),
            v1::Burn::Both => Ok(Burn::Both),
            v1::Burn::Neither => Ok(Burn::Neither),
        }
    }
}

impl From<&ClassRules> for v1::ClassRules {
    fn from(from: &ClassRules) -> Self {
        v1::ClassRules {
            name: from.name.clone(),
            models: from.models.iter().map(|model| model.0).collect(),
            max_fee: from.max_fee.0,
            burn: v1::Burn::from(from.burn).into(),
            supply_cap: uncap(from.supply_cap),
            period_days: from.period_days,
        }
    }
}

impl TryFrom<v1::ClassRules> for ClassRules {
    type Error = FieldError;

    fn try_from(from: v1::ClassRules) -> Result<Self, FieldError> {
        Ok(ClassRules {
            burn: from.burn().try_into()?,
            models: collect("rules.models", &from.models, |model| {
                Ok(ModelNumber(*model))
            })?,
            name: name("rules.name", from.name, MAX_NAME_BYTES)?,
            max_fee: Amount(from.max_fee),
            supply_cap: cap(from.supply_cap),
            period_days: from.period_days,
        })
    }
}

impl From<&PriceTable> for v1::PriceTable {
    fn from(from: &PriceTable) -> Self {
        let meter = |meter: &Meter| v1::Meter {
            name: meter.name.clone(),
            coefficient: meter.coefficient,
            subset_of: meter.subset_of.map(u32::from),
        };
        let model = |model: &Model| v1::Model {
            number: model.number.0,
            name: model.name.clone(),
            meters: model.meters.iter().map(meter).collect(),
            weight: model.weight,
            weight_coefficient: model.weight_coefficient,
        };
        v1::PriceTable {
            version: from.version.0,
            models: from.models.iter().map(model).collect(),
        }
    }
}

impl TryFrom<&v1::Meter> for Meter {
    type Error = FieldError;

    fn try_from(from: &v1::Meter) -> Result<Self, FieldError> {
        let whole = |whole| {
            u8::try_from(whole).map_err(|_| FieldError::new("meter.subset_of", "is above 255"))
        };
        Ok(Meter {
            name: name("meter.name", from.name.clone(), MAX_MODEL_NAME)?,
            coefficient: from.coefficient,
            subset_of: from.subset_of.map(whole).transpose()?,
        })
    }
}

impl TryFrom<&v1::Model> for Model {
    type Error = FieldError;

    fn try_from(from: &v1::Model) -> Result<Self, FieldError> {
        Ok(Model {
            number: ModelNumber(from.number),
            name: name("model.name", from.name.clone(), MAX_MODEL_NAME)?,
            meters: collect("model.meters", &from.meters, |meter| meter.try_into())?,
            weight: from.weight,
            weight_coefficient: from.weight_coefficient,
        })
    }
}

impl TryFrom<v1::PriceTable> for PriceTable {
    type Error = FieldError;

    fn try_from(from: v1::PriceTable) -> Result<Self, FieldError> {
        Ok(PriceTable {
            version: TableVersion(from.version),
            models: collect("models", &from.models, |model| model.try_into())?,
        })
    }
}

impl From<Parameters> for v1::Parameters {
    fn from(from: Parameters) -> Self {
        v1::Parameters {
            threshold: from.threshold,
            max_block_bytes: from.max_block_bytes,
            max_block_debits: from.max_block_debits,
            max_lease_ms: from.max_lease_ms,
            lease_grace_ms: from.lease_grace_ms,
            lease_grace_blocks: from.lease_grace_blocks,
            heartbeat_ms: from.heartbeat_ms,
            clock_error_ms: from.clock_error_ms,
            issuer_day_limit: from.issuer_day_limit.0,
            issuer_day_account_limit: from.issuer_day_account_limit.0,
        }
    }
}

impl From<v1::Parameters> for Parameters {
    fn from(from: v1::Parameters) -> Self {
        Parameters {
            threshold: from.threshold,
            max_block_bytes: from.max_block_bytes,
            max_block_debits: from.max_block_debits,
            max_lease_ms: from.max_lease_ms,
            lease_grace_ms: from.lease_grace_ms,
            lease_grace_blocks: from.lease_grace_blocks,
            heartbeat_ms: from.heartbeat_ms,
            clock_error_ms: from.clock_error_ms,
            issuer_day_limit: Amount(from.issuer_day_limit),
            issuer_day_account_limit: Amount(from.issuer_day_account_limit),
        }
    }
}

impl From<Rate> for v1::Rate {
    fn from(from: Rate) -> Self {
        let limit = |limit| (limit != NO_LIMIT).then_some(limit);
        v1::Rate {
            requests: limit(from.requests),
            tokens: limit(from.tokens),
        }
    }
}

impl From<v1::Rate> for Rate {
    fn from(from: v1::Rate) -> Self {
        Rate {
            requests: from.requests.unwrap_or(NO_LIMIT),
            tokens: from.tokens.unwrap_or(NO_LIMIT),
        }
    }
}

impl From<&Rates> for v1::Rates {
    fn from(from: &Rates) -> Self {
        let class = |of: &ClassRate| v1::ClassRate {
            class: of.class.0.into(),
            rate: Some(of.rate.into()),
        };
        v1::Rates {
            fee_unit: from.fee_unit.0,
            key: Some(from.key.into()),
            account: Some(from.account.into()),
            classes: from.classes.iter().map(class).collect(),
        }
    }
}

impl TryFrom<v1::Rates> for Rates {
    type Error = FieldError;

    fn try_from(from: v1::Rates) -> Result<Self, FieldError> {
        let class = |of: &v1::ClassRate| {
            Ok(ClassRate {
                class: ClassNumber(u16_of("class", of.class)?),
                rate: of.rate.unwrap_or_default().into(),
            })
        };
        Ok(Rates {
            fee_unit: Amount(from.fee_unit),
            key: from.key.unwrap_or_default().into(),
            account: from.account.unwrap_or_default().into(),
            classes: collect("classes", &from.classes, class)?,
        })
    }
}

impl From<Caps> for v1::Caps {
    fn from(from: Caps) -> Self {
        v1::Caps {
            open: uncap(from.open),
            open_account: uncap(from.open_account),
            hour: uncap(from.hour),
            hour_account: uncap(from.hour_account),
        }
    }
}

impl From<v1::Caps> for Caps {
    fn from(from: v1::Caps) -> Self {
        Caps {
            open: cap(from.open),
            open_account: cap(from.open_account),
            hour: cap(from.hour),
            hour_account: cap(from.hour_account),
        }
    }
}
