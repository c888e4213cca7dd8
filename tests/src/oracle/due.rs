//! Due steps: what time alone does to grants and leases. All records are
//! looked through each time.

use super::{Fact, Oracle, STEPS_PER_BLOCK};

/// Kinds in the order in which they run at the same due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vest,
    Expire,
    End,
    Close,
}

/// (due time, kind, owner, number): the order is the tuple's.
type Step = (u64, Kind, u32, u64);

impl Oracle {
    /// Runs the block's due steps, in order, up to the bound.
    pub(super) fn run_due_steps(&mut self) {
        let mut steps = self.grant_steps(None);
        steps.extend(self.lease_steps());
        steps.sort_unstable();
        steps.truncate(STEPS_PER_BLOCK);
        for step in steps {
            self.run_step(step);
        }
    }

    /// Runs the due vest and expiry steps of one account and class, without
    /// bound.
    pub(super) fn catch_up(&mut self, account: u32, class: u16) {
        let mut steps = self.grant_steps(Some((account, class)));
        steps.sort_unstable();
        for step in steps {
            self.run_step(step);
        }
    }

    /// Time of the earliest step that is still to run, due or not. A close
    /// may have to wait longer, for blocks.
    pub fn next_due(&self) -> Option<u64> {
        let grace = u64::from(self.parameters.lease_grace_ms);
        let leases = self.open_leases().map(|(_, lease)| match lease.ended {
            None => lease.end,
            Some((time, _)) => time + grace,
        });
        let grants = (self.grants.iter())
            .filter(|((account, number), _)| self.is_live(*account, *number))
            .filter(|(_, grant)| !grant.is_revoked)
            .filter_map(|(_, grant)| match (grant.vest_done, grant.expiry_done) {
                (false, _) => Some(grant.vests),
                (true, false) => Some(grant.expires),
                (true, true) => None,
            });
        leases.chain(grants).min()
    }

    fn grant_steps(&self, only: Option<(u32, u16)>) -> Vec<Step> {
        let mut steps = Vec::new();
        for ((account, number), grant) in &self.grants {
            let wanted = only.is_none_or(|pair| pair == (*account, grant.class));
            if !wanted || grant.is_revoked || !self.is_live(*account, *number) {
                continue;
            }
            let number = u64::from(*number);
            if !grant.vest_done && grant.vests <= self.time {
                steps.push((grant.vests, Kind::Vest, *account, number));
            }
            if !grant.expiry_done && grant.expires <= self.time {
                steps.push((grant.expires, Kind::Expire, *account, number));
            }
        }
        steps
    }

    fn lease_steps(&self) -> Vec<Step> {
        let grace_ms = u64::from(self.parameters.lease_grace_ms);
        let grace_blocks = u64::from(self.parameters.lease_grace_blocks);
        let mut steps = Vec::new();
        for ((gateway, number), lease) in self.open_leases() {
            match lease.ended {
                None if lease.end <= self.time => {
                    steps.push((lease.end, Kind::End, gateway, number));
                }
                Some((time, height))
                    if self.time >= time + grace_ms && self.height >= height + grace_blocks =>
                {
                    steps.push((time + grace_ms, Kind::Close, gateway, number));
                }
                _ => {}
            }
        }
        steps
    }

    fn run_step(&mut self, (_, kind, owner, number): Step) {
        match kind {
            Kind::Vest => self.vest(owner, number as u32),
            Kind::Expire => self.expire(owner, number as u32),
            Kind::End => self.end(owner, number),
            Kind::Close => self.close(owner, number, false),
        }
    }

    fn vest(&mut self, account: u32, number: u32) {
        if !self.is_live(account, number) {
            return;
        }
        let grant = self.grants.get_mut(&(account, number)).unwrap();
        grant.vest_done = true;
        let (grant, amount) = (number, grant.free);
        self.record(Some(account), Fact::GrantVested { grant, amount });
    }

    fn expire(&mut self, account: u32, number: u32) {
        if !self.is_live(account, number) {
            return;
        }
        let grant = self.grants.get_mut(&(account, number)).unwrap();
        grant.expiry_done = true;
        let amount = std::mem::take(&mut grant.free);
        grant.expired += amount;
        let grant = number;
        self.record(Some(account), Fact::GrantExpired { grant, amount });
    }

    fn end(&mut self, gateway: u32, number: u64) {
        let now = (self.time, self.height);
        let lease = self.leases.get_mut(&(gateway, number)).unwrap();
        lease.ended = Some(now);
        let (account, recall) = (lease.account, lease.recall.to_string());
        let fact = Fact::LeaseEnded {
            gateway,
            lease: number,
            recall,
        };
        self.record(Some(account), fact);
    }

    /// Closes a lease: what remains returns to where it came from, or
    /// follows its grant's end.
    pub(super) fn close(&mut self, gateway: u32, number: u64, by_gateway: bool) {
        let lease = self.leases.get_mut(&(gateway, number)).unwrap();
        let returned = lease.remaining();
        let parts = std::mem::take(&mut lease.parts);
        lease.closed = Some((self.time, returned));
        let account = lease.account;
        let unreported = match lease.recall {
            "JournalLost" => returned,
            _ => 0,
        };
        for (grant, amount) in parts {
            let grant = self.grants.get_mut(&(account, grant)).unwrap();
            if grant.expires <= self.time {
                grant.expired += amount;
            } else if grant.is_revoked {
                grant.revoked += amount;
            } else {
                grant.free += amount;
            }
        }
        let fact = Fact::LeaseClosed {
            gateway,
            lease: number,
            by_gateway,
            returned,
            unreported,
        };
        self.record(Some(account), fact);
    }
}
