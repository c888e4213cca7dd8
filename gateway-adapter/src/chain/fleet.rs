//! Which gateways share the chain's limits: all that are registered and not
//! suspended. Proven leaf by leaf at the start; from there the control entries
//! say who comes and who goes, and none can be left out.

use tally_ledger::{
    entry::Event,
    gateway::Gateway,
    ids::{GatewayNumber, Height},
    tree::Table,
};

use super::{ChainError, light::Light};

/// All gateways of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// By number: whether it is suspended.
    suspended: Vec<bool>,
}

/// One gateway's part of what all may let in together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Gateways before it that serve.
    rank: u32,
    /// Gateways that serve; at least 1.
    of: u32,
}

impl Fleet {
    /// Proves each gateway at `at_least` or later.
    pub async fn load(light: &Light, at_least: Height) -> Result<Self, ChainError> {
        let mut suspended = Vec::new();
        loop {
            let number = suspended.len() as u32;
            let gateway = light.leaf::<Gateway>(Table::Gateways, number, at_least);
            match gateway.await?.leaf {
                Some(gateway) => suspended.push(gateway.suspended),
                None => return Ok(Fleet { suspended }),
            }
        }
    }

    /// Follows a control entry; whether the shares change.
    pub fn follow(&mut self, event: &Event) -> bool {
        let before = self.suspended.clone();
        match event {
            Event::GatewayRegistered { gateway, .. } => {
                // What is there already was read with a later leaf.
                if gateway.0 as usize == self.suspended.len() {
                    self.suspended.push(false);
                }
            }
            Event::GatewaySuspended { gateway, .. } => {
                if let Some(suspended) = self.suspended.get_mut(gateway.0 as usize) {
                    *suspended = true;
                }
            }
            _ => return false,
        }
        self.suspended != before
    }

    /// The part of a gateway.
    pub fn share(&self, gateway: GatewayNumber) -> Share {
        let serve = |suspended: &[bool]| suspended.iter().filter(|it| !**it).count() as u32;
        let before = self.suspended.len().min(gateway.0 as usize);
        Share {
            rank: serve(&self.suspended[..before]),
            of: serve(&self.suspended).max(1),
        }
    }
}

impl Share {
    /// All of it.
    pub const WHOLE: Share = Share { rank: 0, of: 1 };

    /// This part of a limit: an equal one, of what cannot be divided one more
    /// for each of the first gateways. The parts add up to the limit, but
    /// nobody's is less than 1.
    pub fn part(self, limit: u32) -> u32 {
        let more = u32::from(self.rank < limit % self.of);
        (limit / self.of + more).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tally_ledger::hash::Hash;

    use super::*;

    fn registered(number: u32) -> Event {
        Event::GatewayRegistered {
            transaction: Hash::ZERO,
            gateway: GatewayNumber(number),
        }
    }

    fn suspended(number: u32) -> Event {
        Event::GatewaySuspended {
            transaction: Hash::ZERO,
            gateway: GatewayNumber(number),
        }
    }

    #[test]
    fn who_is_registered_shares_until_it_is_suspended() {
        let mut fleet = Fleet {
            suspended: vec![false, true],
        };
        let share = |fleet: &Fleet, number| {
            let Share { rank, of } = fleet.share(GatewayNumber(number));
            (rank, of)
        };
        assert_eq!(share(&fleet, 0), (0, 1));
        assert!(fleet.follow(&registered(2)));
        assert_eq!((share(&fleet, 0), share(&fleet, 2)), ((0, 2), (1, 2)));
        // Twice, as after a start between leaf and entry.
        assert!(!fleet.follow(&registered(2)));
        assert!(!fleet.follow(&suspended(1)));
        assert!(fleet.follow(&suspended(0)));
        assert_eq!(share(&fleet, 2), (0, 1));
        // The last one that goes has nobody to share with.
        assert!(fleet.follow(&suspended(2)));
        assert_eq!(share(&fleet, 2), (0, 1));
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_limit_or_to_one_each(limit in 1u32.., of in 1u32..50) {
            let parts = (0..of).map(|rank| u64::from(Share { rank, of }.part(limit)));
            prop_assert_eq!(parts.sum::<u64>(), u64::from(limit.max(of)));
        }
    }
}
