//! What a request offers for its place in the queue.

use http::HeaderMap;
use tally_ledger::ids::Amount;

use crate::{config::Priority, headers::PRIORITY_FEE, refusal::Refusal};

/// The `service_tier` that may have a fee by policy.
pub const TIER: &str = "priority";

/// The fee that a request names, exact: its header's, else its tier's. Where
/// a fee buys nothing (`sold`) who names one is told so; a tier is a wish,
/// and costs nothing where it cannot be met.
pub fn offered(
    policy: &Priority,
    headers: &HeaderMap,
    tier: Option<&str>,
    sold: bool,
) -> Result<Amount, Refusal> {
    if let Some(value) = headers.get(PRIORITY_FEE) {
        let text = value.to_str().map_err(|_| Refusal::FeeForm)?;
        let fee = Amount::parse(text.trim()).ok_or(Refusal::FeeForm)?;
        return if sold || fee == Amount::ZERO {
            Ok(fee)
        } else {
            Err(Refusal::FeeUseless)
        };
    }
    let tier = tier.filter(|tier| sold && *tier == TIER);
    Ok(tier.and(policy.service_tier_fee).unwrap_or(Amount::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fee: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(PRIORITY_FEE, fee.parse().unwrap());
        headers
    }

    #[test]
    fn fees_are_exact() {
        let policy = Priority::default();
        for (text, micro) in [("0", 0), ("0.000001", 1), (" 12.5 ", 12_500_000)] {
            let fee = offered(&policy, &headers(text), None, true);
            assert_eq!(fee, Ok(Amount(micro)), "{text}");
        }
        for bad in [
            "",
            "-1",
            "1e3",
            "0.0000001",
            "1,5",
            "99999999999999999999",
            "0.1 CT",
        ] {
            let fee = offered(&policy, &headers(bad), None, true);
            assert_eq!(fee, Err(Refusal::FeeForm), "{bad}");
        }
    }

    #[test]
    fn a_tier_costs_what_the_policy_says_and_the_header_wins() {
        let none = HeaderMap::new();
        let policy = Priority {
            service_tier_fee: Some(Amount(7)),
            ..Priority::default()
        };
        let offer = |headers: &HeaderMap, tier| offered(&policy, headers, tier, true);
        assert_eq!(offer(&none, Some("priority")), Ok(Amount(7)));
        assert_eq!(offer(&none, Some("auto")), Ok(Amount::ZERO));
        assert_eq!(offer(&headers("0"), Some("priority")), Ok(Amount::ZERO));
        let free = offered(&Priority::default(), &none, Some("priority"), true);
        assert_eq!(free, Ok(Amount::ZERO));
    }

    #[test]
    fn a_fee_that_buys_nothing_is_refused() {
        let policy = Priority {
            service_tier_fee: Some(Amount(7)),
            ..Priority::default()
        };
        let offer = |headers: &HeaderMap| offered(&policy, headers, Some("priority"), false);
        assert_eq!(offer(&headers("1")), Err(Refusal::FeeUseless));
        assert_eq!(offer(&headers("0")), Ok(Amount::ZERO));
        assert_eq!(offer(&HeaderMap::new()), Ok(Amount::ZERO));
    }
}
