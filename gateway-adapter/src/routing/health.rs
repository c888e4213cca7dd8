//! Whether an engine is used: a synchronous state machine.
//!
//! ```text
//! up ------ cannot be reached, or 502, 503: at once -----------> down
//! up ------ another failure before the first byte, 3 in a row -> down
//! down ---- its pause is over: one request is let through -----> probing
//! probing - that request's answer begins ----------------------> up
//! probing - it fails: the next pause is twice as long ---------> down
//! probing - it has not answered for five seconds: one more ----> probing
//! ```
//!
//! The first pause is half a second, the longest half a minute. A check in
//! the background (`health`) that fails twice in a row takes an engine down
//! too, and prolongs its pause while it fails; one that succeeds ends the
//! pause. A request decides all the same: an engine that says that it is well
//! and answers nobody stays down.

/// The first pause, in ms.
const FIRST_PAUSE: u64 = 500;
/// The longest.
const LONGEST_PAUSE: u64 = 30_000;
/// How long a probe decides alone, in ms: an answer that is not streamed
/// begins at its end.
pub const PROBE_ALONE: u64 = 5_000;
/// Failures in a row that take an engine down, where one does not.
const IN_A_ROW: u32 = 3;
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
    /// Failures in a row while it is up.
    failures: u32,
    /// Failed checks in a row.
    checks: u32,
    /// Pauses since it was last up.
    pauses: u32,
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
            failures: 0,
            checks: 0,
            pauses: 0,
        }
    }
}

impl Health {
    /// Whether a request may go now.
    pub fn gate(&self, now: u64) -> Gate {
        match self.state {
            State::Up => Gate::Open,
            State::Down(until) if now >= until => Gate::Probe,
            State::Probing(since) if now >= since.saturating_add(PROBE_ALONE) => Gate::Probe,
            State::Down(_) | State::Probing(_) => Gate::Shut,
        }
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

    /// An exchange began, or could not; `probe`: it was the one that decides.
    /// Whether the engine has gone down by it.
    pub fn began(&mut self, outcome: Outcome, probe: bool, now: u64) -> bool {
        match (self.state, outcome) {
            (State::Probing(_), Outcome::Answered) if probe => *self = Health::default(),
            (State::Probing(_), _) if probe => return self.down(now),
            (State::Up, Outcome::Answered) => self.failures = 0,
            (State::Up, Outcome::Failed) => {
                self.failures += 1;
                return self.failures >= IN_A_ROW && self.down(now);
            }
            (State::Up, Outcome::Away) => return self.down(now),
            // Requests from before the pause say nothing new.
            (State::Down(_) | State::Probing(_), _) => {}
        }
        false
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
            State::Up => self.checks >= CHECKS_IN_A_ROW && self.down(now),
            State::Down(until) => {
                let hopeful = self.is_hopeful();
                self.pauses = self.pauses.max(2);
                self.state = State::Down(until.max(now + 2 * again));
                hopeful
            }
            State::Probing(_) => false,
        }
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

    #[test]
    fn a_probe_that_does_not_answer_is_not_alone_for_long() {
        let mut health = Health::default();
        assert!(health.began(Outcome::Away, false, 0));
        assert_eq!(health.gate(FIRST_PAUSE), Gate::Probe);
        health.probe(1_000);
        assert_eq!(health.gate(1_000 + PROBE_ALONE - 1), Gate::Shut);
        assert_eq!(health.gate(1_000 + PROBE_ALONE), Gate::Probe);
        health.probe(1_000 + PROBE_ALONE);
        assert_eq!(health.gate(1_000 + PROBE_ALONE), Gate::Shut);
        // Either of them decides.
        assert!(!health.began(Outcome::Answered, true, 7_000));
        assert!(health.is_up());
    }

    #[test]
    fn one_probe_decides_and_pauses_grow() {
        let mut health = Health::default();
        let mut now = 1_000;
        assert!(health.began(Outcome::Away, false, now));
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!((health.gate(now), health.pause(now)), (Gate::Shut, pause));
            assert_eq!(health.is_hopeful(), pause == 500);
            now += pause;
            assert_eq!(health.gate(now), Gate::Probe);
            health.probe(now);
            assert_eq!(health.gate(now), Gate::Shut);
            // Others, sent before, decide nothing.
            assert!(!health.began(Outcome::Answered, false, now));
            assert!(!health.began(Outcome::Away, false, now));
            assert!(!health.is_up());
            assert!(health.began(Outcome::Failed, true, now));
        }
        now += 30_000;
        health.probe(now);
        assert!(!health.began(Outcome::Answered, true, now));
        assert!(health.is_up());
        // The next pause is short again.
        assert!(health.began(Outcome::Away, false, now));
        assert_eq!(health.pause(now), 500);
    }

    #[test]
    fn what_one_request_may_have_caused_needs_three_in_a_row() {
        let mut health = Health::default();
        for _ in 0..5 {
            assert!(!health.began(Outcome::Failed, false, 0));
            assert!(!health.began(Outcome::Failed, false, 0));
            assert!(!health.began(Outcome::Answered, false, 0));
        }
        assert!(!health.began(Outcome::Failed, false, 0));
        assert!(!health.began(Outcome::Failed, false, 0));
        assert!(health.began(Outcome::Failed, false, 0));
    }

    #[test]
    fn a_probe_that_says_nothing_lets_the_next_decide() {
        let mut health = Health::default();
        health.began(Outcome::Away, false, 0);
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
        assert_eq!(health.gate(400), Gate::Shut);
        assert!(health.is_hopeful());
        // While they fail no request is sent to find out, nor waits.
        assert!(health.checked(false, 2_000, 400));
        assert!(!health.is_hopeful() && !health.checked(false, 2_000, 500));
        assert_eq!(health.gate(4_000), Gate::Shut);
        assert!(!health.checked(true, 2_000, 4_000));
        assert_eq!(health.gate(4_000), Gate::Probe);
        health.probe(0);
        assert!(health.began(Outcome::Away, true, 4_000));
        assert!(!health.checked(true, 2_000, 4_100));
        assert_eq!(health.gate(4_100), Gate::Probe);
    }
}
