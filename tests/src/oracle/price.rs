//! The price of a request, worked out apart from the ledger's own (I4): the
//! formula summed meter by meter in signed 128-bit numbers, rounded up once.

use tally_ledger::price::{PriceTable, Usage};

/// nano-CT in a micro-CT.
const NANO: i128 = 1000;

/// Cost in micro-CT; `None` where the usage has no price.
pub fn price(table: &PriceTable, model: u32, usage: &Usage, fee: u64) -> Option<u64> {
    let model = table.models.iter().find(|m| m.number.0 == model)?;
    if fee >= 1 << 62 {
        return None;
    }
    let mut nano = i128::from(model.weight) * i128::from(model.weight_coefficient);
    for (i, count) in usage.0.iter().enumerate() {
        let Some(meter) = model.meters.get(i) else {
            if *count != 0 {
                return None;
            }
            continue;
        };
        let subsets: i128 = (0..model.meters.len())
            .filter(|j| model.meters[*j].subset_of == Some(i as u8))
            .map(|j| i128::from(usage.0[j]))
            .sum();
        let own = i128::from(*count) - subsets;
        if own < 0 {
            return None;
        }
        nano += own * i128::from(meter.coefficient);
    }
    let up = if nano % NANO == 0 { 0 } else { 1 };
    u64::try_from(nano / NANO + up + i128::from(fee)).ok()
}

/// Whether the table knows the model.
pub fn knows(table: &PriceTable, model: u32) -> bool {
    table.models.iter().any(|m| m.number.0 == model)
}
