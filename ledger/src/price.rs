//! The price of a request (I4): integers only, one rounding, up.
//!
//! Per model and table version, with coefficients in nano-CT:
//!
//! ```text
//! sum  = Σ over meters of (count - counts of its subsets) * coefficient
//!      + weight * weight_coefficient
//! cost = ceil_div(sum, 1000) + priority_fee                  [micro-CT]
//! ```
//!
//! For a language model that is
//! `(input - cached) * c_input + cached * c_cached + (output - reasoning) *
//! c_output + reasoning * c_reasoning + model_weight * c_model`.
//!
//! Counts and weight are below 2^32, coefficients below 2^38, the fee below
//! 2^62, at most six meters: the sum stays below 2^73 in `u128` and the cost
//! below 2^64.

use serde::{Deserialize, Serialize};

use crate::{
    codec::List,
    ids::{Amount, ModelNumber, TableVersion},
};

/// Most meters of a model.
pub const MAX_METERS: usize = 6;
/// Most models in a table.
pub const MAX_MODELS: usize = 256;
/// Coefficients are below this.
pub const MAX_COEFFICIENT: u64 = 1 << 38;
/// Priority fees are below this, in micro-CT.
pub const MAX_FEE: u64 = 1 << 62;
/// Most bytes of a model's or meter's name.
pub const MAX_MODEL_NAME: usize = 96;

/// One quantity that a model's price counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// `input`, `cached_input`, `output`, `reasoning`, `images`, ...
    pub name: String,
    /// nano-CT per unit.
    pub coefficient: u64,
    /// Index of the meter whose count includes this one's. A subset's whole
    /// is no subset itself.
    pub subset_of: Option<u8>,
}

/// A model's price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its number for all time.
    pub number: ModelNumber,
    /// What requests call it.
    pub name: String,
    /// What is counted.
    pub meters: List<Meter, MAX_METERS>,
    /// Weight of the model.
    pub weight: u32,
    /// nano-CT per unit of weight and request.
    pub weight_coefficient: u64,
}

/// A version of the price table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// From 1, one more than the last.
    pub version: TableVersion,
    /// Ascending by number; names are unique.
    pub models: List<Model, MAX_MODELS>,
}

/// Counts of a request, in the order of its model's meters; the rest zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usage(pub [u32; MAX_METERS]);

/// Why a price table cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Models must ascend by number without repeats, and names be unique.
    #[error("model {0} repeats a number or name, or is out of order")]
    ModelOrder(ModelNumber),
    /// 1 to [`MAX_MODEL_NAME`] bytes of printable ASCII without spaces.
    #[error("model {0} or one of its meters has a bad name")]
    Name(ModelNumber),
    /// At and over [`MAX_COEFFICIENT`].
    #[error("model {0} has a coefficient of 2^38 or more")]
    Coefficient(ModelNumber),
    /// The whole does not exist, is the meter itself, or is a subset.
    #[error("model {0} has a subset meter whose whole is missing or a subset itself")]
    Subset(ModelNumber),
    /// A model needs a meter, a table a model.
    #[error("a table needs a model, and each model a meter")]
    Empty,
}

/// Why a usage has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A count beyond the model's meters.
    #[error("count {0} has no meter in this model")]
    NoSuchMeter(u8),
    /// Subsets together exceed their whole.
    #[error("the subsets of meter {0} exceed it")]
    SubsetAboveWhole(u8),
    /// At and over [`MAX_FEE`].
    #[error("the priority fee is 2^62 or more")]
    Fee,
}

impl PriceTable {
    /// Checks everything that makes a price total: bounds, order, subsets.
    pub fn validate(&self) -> Result<(), TableError> {
        if self.models.is_empty() {
            return Err(TableError::Empty);
        }
        for (i, model) in self.models.iter().enumerate() {
            let before = &self.models[..i];
            if before
                .iter()
                .any(|m| m.number >= model.number || m.name == model.name)
            {
                return Err(TableError::ModelOrder(model.number));
            }
            model.validate()?;
        }
        Ok(())
    }

    /// The model of this number.
    pub fn model(&self, number: ModelNumber) -> Option<&Model> {
        let index = self
            .models
            .binary_search_by_key(&number, |model| model.number)
            .ok()?;
        self.models.get(index)
    }

    /// The model that requests call `name`.
    pub fn model_named(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

impl Model {
    fn validate(&self) -> Result<(), TableError> {
        if self.meters.is_empty() {
            return Err(TableError::Empty);
        }
        let named = |name: &str| {
            (1..=MAX_MODEL_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
        };
        if !named(&self.name) || !self.meters.iter().all(|meter| named(&meter.name)) {
            return Err(TableError::Name(self.number));
        }
        let coefficients = self.meters.iter().map(|meter| meter.coefficient);
        if coefficients
            .chain([self.weight_coefficient])
            .any(|c| c >= MAX_COEFFICIENT)
        {
            return Err(TableError::Coefficient(self.number));
        }
        let is_whole = |whole: &u8| {
            self.meters
                .get(usize::from(*whole))
                .is_some_and(|meter| meter.subset_of.is_none())
        };
        if !self
            .meters
            .iter()
            .filter_map(|meter| meter.subset_of.as_ref())
            .all(is_whole)
        {
            return Err(TableError::Subset(self.number));
        }
        Ok(())
    }

    /// Index of the meter called `name`.
    pub fn meter(&self, name: &str) -> Option<usize> {
        self.meters.iter().position(|meter| meter.name == name)
    }

    /// What each meter itself is charged for: its count less its subsets'.
    pub fn own_counts(&self, usage: &Usage) -> Result<[u32; MAX_METERS], UsageError> {
        if let Some(i) = (self.meters.len()..MAX_METERS).find(|&i| usage.0[i] != 0) {
            return Err(UsageError::NoSuchMeter(i as u8));
        }
        let mut own = usage.0;
        for (i, meter) in self.meters.iter().enumerate() {
            if let Some(whole) = meter.subset_of {
                let rest = own[usize::from(whole)].checked_sub(usage.0[i]);
                own[usize::from(whole)] = rest.ok_or(UsageError::SubsetAboveWhole(whole))?;
            }
        }
        Ok(own)
    }

    /// The cost of `usage` and a priority fee. The same function quotes
    /// holds, is recomputed by every validator and by the offline verifier.
    pub fn cost(&self, usage: &Usage, fee: Amount) -> Result<Amount, UsageError> {
        if fee.0 >= MAX_FEE {
            return Err(UsageError::Fee);
        }
        let own = self.own_counts(usage)?;
        let metered: u128 = self
            .meters
            .iter()
            .zip(own)
            .map(|(meter, count)| u128::from(meter.coefficient) * u128::from(count))
            .sum();
        let sum = metered + u128::from(self.weight) * u128::from(self.weight_coefficient);
        let micro = sum.div_ceil(1000) + u128::from(fee.0);
        Ok(Amount(
            u64::try_from(micro).expect("bounds of a valid table keep it below 2^64"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language_model() -> Model {
        let meter = |name: &str, coefficient, subset_of| Meter {
            name: name.into(),
            coefficient,
            subset_of,
        };
        Model {
            number: ModelNumber(1),
            name: "m".into(),
            meters: List::new(vec![
                meter("input", 1_000, None),
                meter("cached_input", 250, Some(0)),
                meter("output", 4_000, None),
                meter("reasoning", 3_000, Some(2)),
            ])
            .unwrap(),
            weight: 7,
            weight_coefficient: 3,
        }
    }

    #[test]
    fn follows_the_formula_and_rounds_once_up() {
        // 60*1000 + 40*250 + 15*4000 + 5*3000 + 21 = 145021 nano -> 146 micro
        let usage = Usage([100, 40, 20, 5, 0, 0]);
        assert_eq!(language_model().cost(&usage, Amount(0)), Ok(Amount(146)));
        assert_eq!(language_model().cost(&usage, Amount(10)), Ok(Amount(156)));
        assert_eq!(
            language_model().cost(&Usage::default(), Amount(0)),
            Ok(Amount(1))
        );
    }

    #[test]
    fn refuses_what_has_no_price() {
        let model = language_model();
        assert_eq!(
            model.cost(&Usage([1, 2, 0, 0, 0, 0]), Amount(0)),
            Err(UsageError::SubsetAboveWhole(0))
        );
        assert_eq!(
            model.cost(&Usage([0, 0, 0, 0, 1, 0]), Amount(0)),
            Err(UsageError::NoSuchMeter(4))
        );
        assert_eq!(
            model.cost(&Usage::default(), Amount(MAX_FEE)),
            Err(UsageError::Fee)
        );
    }

    #[test]
    fn cannot_overflow_at_the_bounds() {
        let meter = Meter {
            name: "x".into(),
            coefficient: MAX_COEFFICIENT - 1,
            subset_of: None,
        };
        let model = Model {
            number: ModelNumber(0),
            name: "max".into(),
            meters: List::new(vec![meter; MAX_METERS]).unwrap(),
            weight: u32::MAX,
            weight_coefficient: MAX_COEFFICIENT - 1,
        };
        let cost = model
            .cost(&Usage([u32::MAX; MAX_METERS]), Amount(MAX_FEE - 1))
            .unwrap();
        let sum = 7u128 * u128::from(u32::MAX) * u128::from(MAX_COEFFICIENT - 1);
        assert_eq!(
            u128::from(cost.0),
            sum.div_ceil(1000) + u128::from(MAX_FEE - 1)
        );
    }

    #[test]
    fn a_table_is_checked() {
        let good = language_model();
        let with = |change: &dyn Fn(&mut Model)| {
            let mut model = good.clone();
            change(&mut model);
            PriceTable {
                version: TableVersion(1),
                models: List::new(vec![model]).unwrap(),
            }
            .validate()
        };
        let n = ModelNumber(1);
        assert_eq!(with(&|_| ()), Ok(()));
        assert_eq!(
            with(&|m| m.weight_coefficient = MAX_COEFFICIENT),
            Err(TableError::Coefficient(n))
        );
        assert_eq!(with(&|m| m.name = "a b".into()), Err(TableError::Name(n)));
        assert_eq!(
            with(&|m| m.meters = List::default()),
            Err(TableError::Empty)
        );
        let subset = |whole| {
            move |m: &mut Model| {
                let mut meters = m.meters.to_vec();
                meters[3].subset_of = Some(whole);
                m.meters = List::new(meters).unwrap();
            }
        };
        assert_eq!(with(&subset(1)), Err(TableError::Subset(n)));
        assert_eq!(with(&subset(3)), Err(TableError::Subset(n)));
        assert_eq!(with(&subset(9)), Err(TableError::Subset(n)));
        let twice = PriceTable {
            version: TableVersion(1),
            models: List::new(vec![good.clone(), good]).unwrap(),
        };
        assert_eq!(twice.validate(), Err(TableError::ModelOrder(n)));
    }
}
