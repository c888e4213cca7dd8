//! Whether an engine is used: a synchronous state machine.
//!
//! ```text
//! up ------ cannot be reached, or 502, 503: at once -----------> down
//! up ------ another failure before the first byte, 3 in a row,
//!           of two accounts at least --------------------------> down
//! down ---- its pause is over: one request is let through -----> probing
//! probing - that request's answer begins ----------------------> up
//! probing - it fails: the next pause is twice as long ---------> down
//! probing - it has not answered for five seconds: one more ----> probing
//! ```
//!
//! What one request may have caused, one account may cause as often as it
//! likes. So three failures in a row that are all one account's take an
//! engine down only if no other account was answered within a minute; then
//! the pause stays half a second, and ends for all with the first request of
//! another account that is answered.
//!
//! The first pause is half a second, the longest half a minute. A check in
//! the background (`health`) that fails twice in a row takes an engine down
//! too, and until one succeeds no request is sent to find out, however long
//! the checks take. Then a request decides all the same: an engine that says
//! that it is well and answers nobody stays down.

use tally_ledger::ids::AccountNumber;

/// The first pause, in ms.
const FIRST_PAUSE: u64 = 500;
/// The longest.
const LONGEST_PAUSE: u64 = 30_000;
/// How long a probe decides alone, in ms: an answer that is not streamed
/// begins at its end.
pub const PROBE_ALONE: u64 = 5_000;
/// Failures in a row that take an engine down, where one does not.
const IN_A_ROW: u32 = 3;
/// How long an answer to another account speaks against the failures of one,
/// in ms.
const OTHERS: u64 = 60_000;
/// Failed checks in a row that do.
const CHECKS_IN_A_ROW: u32 = 2;

/// How an exchange with an engine began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered,
    /// It failed in a way that one request may have caused.
    Failed,
    /// It is not there: nobody is listening, or says that it cannot.
    Away,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Until then no request is sent.
    Down(u64),
    /// One request was, at that time.
    Probing(u64),
}

/// An engine's health.
#[derive(Debug)]
pub struct Health {
    state: State,
    failures: Row,
    /// The two accounts that were last answered, and when.
    answered: [Option<(AccountNumber, u64)>; 2],
    /// Failed checks in a row.
    checks: u32,
    /// Pauses since it was last up.
    pauses: u32,
}

/// Failures in a row that one request each may have caused.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    count: u32,
    /// Whose the first one was.
    first: Option<AccountNumber>,
    /// Not all are that account's.
    several: bool,
}

impl Row {
    fn add(&mut self, account: AccountNumber) {
        self.count = self.count.saturating_add(1);
        self.several |= *self.first.get_or_insert(account) != account;
    }

    /// Whether all of them are this account's.
    fn is_of(&self, account: AccountNumber) -> bool {
        self.first == Some(account) && !self.several
    }
}

/// What a new request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Go.
    Open,
    /// Go, alone, and decide.
    Probe,
    /// Not go.
    Shut,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            state: State::Up,
            failures: Row::default(),
            answered: [None; 2],
            checks: 0,
            pauses: 0,
        }
    }
}

impl Health {
    /// Whether a request may go now.
    pub fn gate(&self, now: u64) -> Gate {
        match self.state {
            // The next check decides, however long it takes.
            _ if self.is_unwell() => Gate::Shut,
            State::Up => Gate::Open,
            State::Down(until) if now >= until => Gate::Probe,
            State::Probing(since) if now >= since.saturating_add(PROBE_ALONE) => Gate::Probe,
            State::Down(_) | State::Probing(_) => Gate::Shut,
        }
    }

    /// Whether its checks fail.
    fn is_unwell(&self) -> bool {
        self.checks >= CHECKS_IN_A_ROW
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it may be up again in a moment: waiting for it makes sense.
    pub fn is_hopeful(&self) -> bool {
        self.pauses <= 1
    }

    /// When its pause ends, in ms from now.
    pub fn pause(&self, now: u64) -> u64 {
        match self.state {
            State::Down(until) => until.saturating_sub(now),
            State::Up | State::Probing(_) => 0,
        }
    }

    /// The request that the gate called a probe goes.
    pub fn probe(&mut self, now: u64) {
        self.state = State::Probing(now);
    }

    /// An exchange of `account` began, or could not; `probe`: it was the one
    /// that decides. Whether the engine has gone down by it.
    pub fn began(
        &mut self,
        outcome: Outcome,
        account: AccountNumber,
        probe: bool,
        now: u64,
    ) -> bool {
        if outcome == Outcome::Answered {
            self.remember(account, now);
        }
        match (self.state, outcome) {
            (State::Probing(_), Outcome::Answered) if probe => {
                *self = Health {
                    answered: self.answered,
                    checks: self.checks,
                    ..Health::default()
                };
            }
            (State::Probing(_), Outcome::Failed) if probe && self.failures.is_of(account) => {
                return self.down_by_one(now);
            }
            (State::Probing(_), _) if probe => {
                self.failures = Row::default();
                return self.down(now);
            }
            (State::Up, Outcome::Answered) => self.failures = Row::default(),
            (State::Up, Outcome::Failed) => {
                self.failures.add(account);
                if self.failures.count >= IN_A_ROW {
                    return self.failed(account, now);
                }
            }
            (State::Up, Outcome::Away) => {
                self.failures = Row::default();
                return self.down(now);
            }
            // Requests from before the pause say nothing new.
            (State::Down(_) | State::Probing(_), _) => {}
        }
        false
    }

    /// Enough failures in a row, the last one of `account`.
    fn failed(&mut self, account: AccountNumber, now: u64) -> bool {
        if !self.failures.is_of(account) {
            self.failures = Row::default();
            return self.down(now);
        }
        let mut answered = self.answered.iter().flatten();
        let others = answered.any(|(other, at)| *other != account && now < at + OTHERS);
        !others && self.down_by_one(now)
    }

    /// As far as one account can tell.
    fn down_by_one(&mut self, now: u64) -> bool {
        self.pauses = self.pauses.max(1);
        self.state = State::Down(now + FIRST_PAUSE);
        true
    }

    fn remember(&mut self, account: AccountNumber, now: u64) {
        let [newest, before] = self.answered;
        self.answered = match newest {
            Some((known, _)) if known != account => [Some((account, now)), newest],
            _ => [Some((account, now)), before],
        };
    }

    /// The probe ended without telling anything: the next one decides.
    pub fn undecided(&mut self, now: u64) {
        if matches!(self.state, State::Probing(_)) {
            self.state = State::Down(now);
        }
    }

    /// A check in the background was answered well or not; `again`: in how
    /// many ms the next one is made. Whether the engine has gone down by it,
    /// or is down for longer than was hoped.
    pub fn checked(&mut self, well: bool, again: u64, now: u64) -> bool {
        if well {
            self.checks = 0;
            if let State::Down(until) = self.state {
                self.state = State::Down(until.min(now));
            }
            return false;
        }
        self.checks += 1;
        match self.state {
            State::Up if self.is_unwell() => self.down(now),
            State::Down(until) => self.prolong(until.max(now + 2 * again)),
            State::Probing(_) if self.is_unwell() => self.prolong(now + 2 * again),
            State::Up | State::Probing(_) => false,
        }
    }

    /// Down for longer; whether that is longer than was hoped.
    fn prolong(&mut self, until: u64) -> bool {
        let hopeful = self.is_hopeful();
        self.pauses = self.pauses.max(2);
        self.state = State::Down(until);
        hopeful
    }

    fn down(&mut self, now: u64) -> bool {
        let pause = FIRST_PAUSE << self.pauses.min(16);
        self.pauses = self.pauses.saturating_add(1);
        self.state = State::Down(now + pause.min(LONGEST_PAUSE));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AccountNumber = AccountNumber(1);
    const TWO: AccountNumber = AccountNumber(2);
    const MINUTE: u64 = 60_000;

    #[test]
    fn one_account_takes_no_engine_down_that_answers_others() {
        let mut health = Health::default();
        health.began(Outcome::Answered, ONE, false, 0);
        health.began(Outcome::Answered, TWO, false, 0);
        health.began(Outcome::Answered, ONE, false, 1_000);
        for _ in 0..100 {
            assert!(!health.began(Outcome::Failed, ONE, false, MINUTE - 1));
        }
        assert!(health.is_up());
        // With one of another it is not that account's affair any more.
        assert!(health.began(Outcome::Failed, TWO, false, MINUTE - 1));
        assert!(!health.is_up());
    }

    #[test]
    fn where_nobody_else_was_answered_one_account_decides_for_half_a_second() {
        let mut health = Health::default();
        health.began(Outcome::Answered, TWO, false, 0);
        let mut now = MINUTE;
        assert!(!health.began(Outcome::Failed, ONE, false, now));
        assert!(!health.began(Outcome::Failed, ONE, false, now));
        assert!(health.began(Outcome::Failed, ONE, false, now));
        // However often it tries: others wait for it, and no longer.
        for _ in 0..5 {
            assert_eq!(
                (health.pause(now), health.is_hopeful()),
                (FIRST_PAUSE, true)
            );
            now += FIRST_PAUSE;
            health.probe(now);
            assert!(health.began(Outcome::Failed, ONE, true, now));
        }
        now += FIRST_PAUSE;
        health.probe(now);
        assert!(!health.began(Outcome::Answered, TWO, true, now));
        for _ in 0..5 {
            assert!(!health.began(Outcome::Failed, ONE, false, now));
        }
        assert!(health.is_up());
        // The other account's probe fails too: it is the engine.
        now += MINUTE;
        assert!(health.began(Outcome::Failed, ONE, false, now));
        health.probe(now);
        assert!(health.began(Outcome::Failed, TWO, true, now));
        assert_eq!(health.pause(now), 2 * FIRST_PAUSE);
        assert!(!health.is_hopeful());
    }

    #[test]
    fn a_probe_that_does_not_answer_is_not_alone_for_long() {
        let mut health = Health::default();
        assert!(health.began(Outcome::Away, ONE, false, 0));
        assert_eq!(health.gate(FIRST_PAUSE), Gate::Probe);
        health.probe(1_000);
        assert_eq!(health.gate(1_000 + PROBE_ALONE - 1), Gate::Shut);
        assert_eq!(health.gate(1_000 + PROBE_ALONE), Gate::Probe);
        health.probe(1_000 + PROBE_ALONE);
        assert_eq!(health.gate(1_000 + PROBE_ALONE), Gate::Shut);
        // Either of them decides.
        assert!(!health.began(Outcome::Answered, ONE, true, 7_000));
        assert!(health.is_up());
    }

    #[test]
    fn one_probe_decides_and_pauses_grow() {
        let mut health = Health::default();
        let mut now = 1_000;
        assert!(health.began(Outcome::Away, ONE, false, now));
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!((health.gate(now), health.pause(now)), (Gate::Shut, pause));
            assert_eq!(health.is_hopeful(), pause == 500);
            now += pause;
            assert_eq!(health.gate(now), Gate::Probe);
            health.probe(now);
            assert_eq!(health.gate(now), Gate::Shut);
            // Others, sent before, decide nothing.
            assert!(!health.began(Outcome::Answered, ONE, false, now));
            assert!(!health.began(Outcome::Away, ONE, false, now));
            assert!(!health.is_up());
            assert!(health.began(Outcome::Failed, ONE, true, now));
        }
        now += 30_000;
        health.probe(now);
        assert!(!health.began(Outcome::Answered, ONE, true, now));
        assert!(health.is_up());
        // The next pause is short again.
        assert!(health.began(Outcome::Away, ONE, false, now));
        assert_eq!(health.pause(now), 500);
    }

    #[test]
    fn what_one_request_may_have_caused_needs_three_in_a_row() {
        let mut health = Health::default();
        for _ in 0..5 {
            assert!(!health.began(Outcome::Failed, ONE, false, 0));
            assert!(!health.began(Outcome::Failed, ONE, false, 0));
            assert!(!health.began(Outcome::Answered, ONE, false, 0));
        }
        assert!(!health.began(Outcome::Failed, ONE, false, 0));
        assert!(!health.began(Outcome::Failed, ONE, false, 0));
        assert!(health.began(Outcome::Failed, ONE, false, 0));
    }

    #[test]
    fn a_probe_that_says_nothing_lets_the_next_decide() {
        let mut health = Health::default();
        health.began(Outcome::Away, ONE, false, 0);
        health.probe(0);
        health.undecided(700);
        assert_eq!(health.gate(700), Gate::Probe);
        health.undecided(700);
        assert!(health.is_hopeful());
    }

    #[test]
    fn checks_take_it_down_and_end_its_pause() {
        let mut health = Health::default();
        assert!(!health.checked(false, 2_000, 0));
        assert!(!health.checked(true, 2_000, 0));
        assert!(!health.checked(false, 2_000, 0));
        assert!(health.checked(false, 2_000, 0));
        // The next check decides, no request, whenever it is answered.
        for now in [0, 499, 500, 4_000, MINUTE] {
            assert_eq!(health.gate(now), Gate::Shut);
        }
        assert!(health.is_hopeful());
        // While they fail no request is sent to find out, nor waits.
        assert!(health.checked(false, 2_000, 400));
        assert!(!health.is_hopeful() && !health.checked(false, 2_000, 500));
        assert_eq!(health.gate(4_000), Gate::Shut);
        assert!(!health.checked(true, 2_000, 4_000));
        assert_eq!(health.gate(4_000), Gate::Probe);
        health.probe(0);
        assert!(health.began(Outcome::Away, ONE, true, 4_000));
        assert!(!health.checked(true, 2_000, 4_100));
        assert_eq!(health.gate(4_100), Gate::Probe);
    }

    #[test]
    fn a_probe_under_way_opens_nothing_while_checks_fail() {
        let mut health = Health::default();
        health.began(Outcome::Away, ONE, false, 0);
        health.probe(500);
        assert!(!health.checked(false, 2_000, 600));
        assert!(health.checked(false, 2_000, 2_600));
        assert!(!health.is_hopeful());
        // Neither its time nor its end does.
        assert_eq!(health.gate(500 + PROBE_ALONE), Gate::Shut);
        health.undecided(3_000);
        assert_eq!(health.gate(3_000), Gate::Shut);
        assert!(!health.checked(true, 2_000, 4_600));
        assert_eq!(health.gate(4_600), Gate::Probe);

        // One that was answered: the next check that fails shuts it again.
        let mut health = Health::default();
        health.began(Outcome::Away, ONE, false, 0);
        health.probe(500);
        assert!(!health.checked(false, 2_000, 600));
        health.began(Outcome::Answered, ONE, true, 700);
        assert_eq!(health.gate(700), Gate::Open);
        assert!(health.checked(false, 2_000, 2_600));
        assert_eq!(health.gate(MINUTE), Gate::Shut);
    }
}
