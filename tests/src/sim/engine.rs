//! The engine around its core, as the engine's actors are: the log, the
//! timers, the queues between core and host. What it does at each effect is
//! what the engine does, in the same order; only actors, network and clock
//! are others.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use malachitebft_app_channel::{
    AppMsg, NetworkMsg,
    app::{
        consensus::SignedConsensusMsg,
        consensus::{Effect, Input, LivenessMsg, Resumable, Resume},
        engine::{
            host::{Next, SyncedValueOutcome},
            wal::{decode_entry, encode_entry},
        },
        streaming::StreamMessage,
        types::{PeerId, sync::RawDecidedValue},
        wal::log::Log,
    },
};
use malachitebft_codec::Codec;
use malachitebft_core_types::{
    HeightParams, LinearTimeouts, NilOrVal, Timeout, Value, ValueOrigin, ValueResponse, VoteType,
};
use malachitebft_signing::VerifierExt;
use tally_consensus::{
    bare::{Bare, Run, Stopped},
    context::{Address, Engine as Ctx, Height, Part, Vote},
    disk::LogFile,
};
use tally_ledger::block::{proposal_bytes, vote_bytes};
use tokio::sync::{mpsc, oneshot};

use super::{
    app::{App, Shared},
    clock::Clock,
    disk::SimDisk,
    judge::Place,
    message::{Ask, Cut, Out, Packet, Tell, WIRE, show},
    rng::Rng,
};

/// The engine around the core.
pub struct Engine {
    /// Which node's.
    pub node: usize,
    /// As what it runs.
    pub run: Run,
    /// For the host.
    pub asks: VecDeque<Ask>,
    /// For the core.
    pub tells: VecDeque<Tell>,
    /// For the world.
    pub out: Vec<Out>,
    /// The host has ended it.
    pub stopped: Option<Stopped>,
    /// The power has failed, or something that never must.
    pub dead: bool,
    /// Effects until a crash.
    pub effects_left: Option<u64>,
    /// The guard has refused a signature.
    pub refused: bool,
    /// Replays its log.
    pub recovering: bool,
    /// The unanswered Finalized.
    pub next: Option<oneshot::Receiver<Next<Ctx>>>,
    honest: bool,
    validator: bool,
    timers: HashMap<Timeout, u64>,
    timeouts: LinearTimeouts,
    set_timers: u64,
    log: Log<LogFile>,
    log_height: Height,
    network: (
        mpsc::Sender<NetworkMsg<Ctx>>,
        mpsc::Receiver<NetworkMsg<Ctx>>,
    ),
    shared: Shared,
    clock: Clock,
    disk: SimDisk,
    rng: Rng,
}

impl Engine {
    /// Opens the log of a run.
    pub fn open(
        node: usize,
        honest: bool,
        run: Run,
        (shared, clock, disk): (Shared, Clock, SimDisk),
        rng: Rng,
    ) -> Result<Self, String> {
        let log = Log::open_with(&run.log, Arc::new(disk.clone()) as _);
        Ok(Self {
            node,
            run,
            asks: VecDeque::new(),
            tells: VecDeque::new(),
            out: Vec::new(),
            stopped: None,
            dead: false,
            effects_left: None,
            refused: false,
            recovering: false,
            next: None,
            honest,
            validator: false,
            timers: HashMap::new(),
            timeouts: LinearTimeouts::default(),
            set_timers: 0,
            log: log.map_err(|error| format!("the engine's log: {error}"))?,
            log_height: Height(0),
            network: mpsc::channel(1 << 12),
            shared,
            clock,
            disk,
            rng,
        })
    }

    /// Something that must never be; unless it is for want of power.
    pub fn fail(&mut self, why: String) {
        if !self.disk.is_off() {
            let node = self.node;
            (self.shared.judge()).condemn(format!("node {node} cannot go on: {why}"));
        }
        self.dead = true;
    }

    /// Whether it goes on.
    pub fn goes_on(&mut self) -> bool {
        self.dead |= self.disk.is_off();
        !self.dead && self.stopped.is_none()
    }

    /// Virtual time, in us.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Virtual time, as the host takes it.
    pub fn instant(&self) -> Instant {
        self.clock.instant()
    }

    /// Such a time in us.
    pub fn micros(&self, at: Instant) -> u64 {
        self.clock.micros(at)
    }

    /// A timer has run out: whether that matters.
    pub fn elapsed(&mut self, timeout: Timeout, number: u64) -> bool {
        let counts = self.timers.get(&timeout) == Some(&number);
        if counts {
            self.timers.remove(&timeout);
        }
        counts
    }

    /// The core begins a height: what the log holds of it.
    pub fn begin(&mut self, height: Height, params: &HeightParams<Ctx>) -> Vec<Input<Ctx>> {
        use malachitebft_core_types::ValidatorSet as _;
        let set = &params.validator_set;
        self.validator = set.get_by_address(&self.run.address).is_some();
        self.timeouts = params.timeouts;
        let fetched = match self.validator {
            true if self.log_height == height => Ok(Vec::new()),
            true if self.log.sequence() == height.0 => self.entries(),
            _ => self.log.reset(height.0).map(|()| Vec::new()),
        };
        self.log_height = height;
        fetched.unwrap_or_else(|error| {
            self.fail(format!("its log: {error}"));
            Vec::new()
        })
    }

    fn entries(&mut self) -> std::io::Result<Vec<Input<Ctx>>> {
        if self.log.is_empty() {
            return Ok(Vec::new());
        }
        let entries = self.log.iter()?;
        entries
            .map(|entry| decode_entry::<Ctx, _, _>(&WIRE, std::io::Cursor::new(entry?)))
            .collect()
    }

    /// Logs something; fails the node if that fails.
    fn append(&mut self, height: Height, entry: Input<Ctx>) {
        if self.recovering || !self.validator || height != self.log_height {
            return;
        }
        let mut bytes = Vec::new();
        let encoded = encode_entry(entry, &WIRE, &mut bytes);
        if let Err(error) = encoded.and_then(|()| self.log.append(&bytes)) {
            self.fail(format!("its log: {error}"));
        }
    }

    fn flush(&mut self) {
        if self.recovering || !self.validator {
            return;
        }
        if let Err(error) = self.log.flush() {
            self.fail(format!("its log: {error}"));
        }
    }

    fn signed(&self, place: Place, bytes: &[u8]) {
        if self.honest {
            self.shared.judge().signed(self.node, place, bytes);
        }
    }

    fn signed_vote(&self, vote: &Vote) {
        let block = match &vote.block {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(&id.0),
        };
        let step = match vote.kind {
            VoteType::Prevote => 2,
            VoteType::Precommit => 3,
        };
        let round = vote.round.as_u32().unwrap_or(u32::MAX);
        let bytes = vote_bytes(vote.height.into(), round, block);
        self.signed((vote.height.0, round, step), &bytes);
    }

    fn refuse(&mut self, why: &dyn std::fmt::Debug) -> Cut {
        self.refused = true;
        show(|| format!("node {} does not sign: {why:?}", self.node));
        Cut
    }

    fn publish(&mut self, packet: Packet) {
        self.out.push(Out::All(packet, false));
    }

    fn consensus(&mut self, message: &SignedConsensusMsg<Ctx>) {
        if let Ok(bytes) = WIRE.encode(message) {
            self.publish(Packet::Consensus(bytes));
        }
    }

    fn liveness(&mut self, message: &LivenessMsg<Ctx>) {
        if let Ok(bytes) = WIRE.encode(message) {
            self.publish(Packet::Liveness(bytes));
        }
    }

    /// The crash that was set for this effect, if it was.
    fn crash(&mut self, effect: &Effect<Ctx>) -> bool {
        let Some(left) = &mut self.effects_left else {
            return false;
        };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        if let Effect::PublishConsensusMsg(message, _) = effect
            && self.rng.chance(500)
        {
            // It came as far as some peers.
            self.flush();
            if let Ok(bytes) = WIRE.encode(message) {
                self.out.push(Out::All(Packet::Consensus(bytes), true));
            }
        }
        self.disk.fail();
        self.dead = true;
        true
    }

    /// Carries out an effect of the core.
    pub async fn effect(
        &mut self,
        effect: Effect<Ctx>,
        bare: &mut Bare<App>,
    ) -> Result<Resume<Ctx>, Cut> {
        if !self.goes_on() || self.crash(&effect) {
            return Err(Cut);
        }
        let resume = self.carry_out(effect, bare).await?;
        match self.goes_on() {
            true => Ok(resume),
            false => Err(Cut),
        }
    }

    async fn carry_out(
        &mut self,
        effect: Effect<Ctx>,
        bare: &mut Bare<App>,
    ) -> Result<Resume<Ctx>, Cut> {
        Ok(match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.timers.remove(&timeout);
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.set_timers += 1;
                self.timers.insert(timeout, self.set_timers);
                let after = self.timeouts.duration_for(timeout).as_micros() as u64;
                let at = self.clock.now() + after;
                self.out.push(Out::Timer(at, timeout, self.set_timers));
                r.resume_with(())
            }
            Effect::StartRound(height, round, proposer, role, r) => {
                self.flush();
                while self.goes_on() && self.answer(bare).await {}
                let (reply_value, reply) = oneshot::channel();
                let message = AppMsg::StartedRound {
                    height,
                    round,
                    proposer,
                    role,
                    reply_value,
                };
                for value in self.call(bare, message, reply).await.ok_or(Cut)? {
                    let input = Input::ProposedValue(value, ValueOrigin::Consensus);
                    self.tells.push_back(Tell::Input(input));
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.flush();
                if self.goes_on() {
                    self.consensus(&message);
                }
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                self.liveness(&message);
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.liveness(&LivenessMsg::Vote(vote));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.liveness(&LivenessMsg::SkipRoundCertificate(certificate));
                r.resume_with(())
            }
            Effect::GetValue(height, round, timeout, r) => {
                let within = self.timeouts.duration_for(timeout);
                self.asks.push_back(Ask::GetValue(height, round, within));
                r.resume_with(())
            }
            Effect::RestreamProposal(height, round, valid_round, address, id, r) => {
                let ask = Ask::Restream(height, round, valid_round, address, id);
                self.asks.push_back(ask);
                r.resume_with(())
            }
            Effect::Decide(certificate, extensions, r) => {
                self.flush();
                self.asks.push_back(Ask::Decided(certificate, extensions));
                r.resume_with(())
            }
            Effect::Finalize(certificate, extensions, evidence, r) => {
                let ask = Ask::Finalized(certificate, extensions, evidence);
                self.asks.push_back(ask);
                r.resume_with(())
            }
            Effect::CertVerifiedSyncValue(value, proposer, r) => {
                self.asks.push_back(Ask::Synced(value, proposer));
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(_, _, _, r) => r.resume_with(()),
            Effect::WalAppend(height, entry, r) => {
                self.append(height, entry);
                r.resume_with(())
            }
            // Extensions are off.
            Effect::ExtendVote(..) | Effect::VerifyVoteExtension(..) => return Err(Cut),
            signatures => self.signatures(signatures).await?,
        })
    }

    /// The effects that make and check signatures.
    async fn signatures(&mut self, effect: Effect<Ctx>) -> Result<Resume<Ctx>, Cut> {
        use malachitebft_app_channel::app::consensus::ConsensusMsg;
        let verifier = &self.run.verifier;
        Ok(match effect {
            Effect::SignVote(vote, r) => {
                let signer = self.run.signer.as_ref().ok_or(Cut)?;
                let signed = signer
                    .sign_vote(vote)
                    .await
                    .map_err(|why| self.refuse(&why))?;
                self.signed_vote(&signed.message);
                r.resume_with(signed)
            }
            Effect::SignProposal(proposal, r) => {
                let signer = self.run.signer.as_ref().ok_or(Cut)?;
                let signed =
                    (signer.sign_proposal(proposal).await).map_err(|why| self.refuse(&why))?;
                let message = &signed.message;
                let round = message.round.as_u32().unwrap_or(u32::MAX);
                let pol_round = message.pol_round.as_i64() as i32;
                let (height, block) = (message.height, &message.block.0);
                let bytes = proposal_bytes(height.into(), round, block, pol_round);
                self.signed((height.0, round, 1), &bytes);
                r.resume_with(signed)
            }
            Effect::VerifySignature(message, key, r) => {
                let signature = &message.signature;
                let checked = match &message.message {
                    ConsensusMsg::Vote(vote) => {
                        verifier.verify_signed_vote(vote, signature, &key).await
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        let checked = verifier.verify_signed_proposal(proposal, signature, &key);
                        checked.await
                    }
                };
                r.resume_with(checked.is_ok_and(|checked| checked.is_valid()))
            }
            Effect::VerifyCommitCertificate(certificate, set, thresholds, r) => {
                let checked =
                    verifier.verify_commit_certificate(&Ctx, &certificate, &set, thresholds);
                r.resume_with(checked.await)
            }
            Effect::VerifyExtendedCommitCertificate(certificate, set, thresholds, policy, r) => {
                let checked = verifier.verify_extended_commit_certificate(
                    &Ctx,
                    &certificate,
                    &set,
                    thresholds,
                    policy,
                );
                r.resume_with(checked.await)
            }
            Effect::VerifyPolkaCertificate(certificate, set, thresholds, r) => {
                let checked =
                    verifier.verify_polka_certificate(&Ctx, &certificate, &set, thresholds);
                r.resume_with(checked.await)
            }
            Effect::VerifyRoundCertificate(certificate, set, thresholds, r) => {
                let checked =
                    verifier.verify_round_certificate(&Ctx, &certificate, &set, thresholds);
                r.resume_with(checked.await)
            }
            _ => return Err(Cut),
        })
    }

    /// Asks the host; `None` if there is no answer: the engine stops.
    async fn call<T>(
        &mut self,
        bare: &mut Bare<App>,
        message: AppMsg<Ctx>,
        mut reply: oneshot::Receiver<T>,
    ) -> Option<T> {
        let handled = bare.handle(message, &self.network.0).await;
        while let Ok(NetworkMsg::PublishProposalPart(part)) = self.network.1.try_recv() {
            if let Ok(bytes) = WIRE.encode(&part)
                && self.goes_on()
            {
                self.publish(Packet::Part(bytes));
            }
        }
        if let Err(stopped) = handled {
            self.stopped = Some(stopped);
        }
        match self.goes_on() {
            true => reply.try_recv().ok(),
            false => None,
        }
    }

    /// Has the host answer what it is asked first; `false`: nothing is.
    pub async fn answer(&mut self, bare: &mut Bare<App>) -> bool {
        let Some(ask) = self.asks.pop_front() else {
            return false;
        };
        match ask {
            Ask::GetValue(height, round, timeout) => {
                let (reply, value) = oneshot::channel();
                let message = AppMsg::GetValue {
                    height,
                    round,
                    timeout,
                    reply,
                };
                let value = self.call(bare, message, value).await;
                self.tell(value.map(Input::Propose));
            }
            Ask::Restream(height, round, valid_round, address, value_id) => {
                let (reply, done) = oneshot::channel();
                let message = AppMsg::RestreamProposal {
                    height,
                    round,
                    valid_round,
                    address,
                    value_id,
                };
                drop(reply);
                self.call::<()>(bare, message, done).await;
            }
            Ask::Decided(certificate, extensions) => {
                let (reply, done) = oneshot::channel();
                let message = AppMsg::Decided {
                    certificate,
                    extensions,
                    reply,
                };
                self.call(bare, message, done).await;
            }
            Ask::Finalized(certificate, extensions, evidence) => {
                let (reply, next) = oneshot::channel();
                let message = AppMsg::Finalized {
                    certificate,
                    extensions,
                    evidence,
                    reply,
                };
                let (_, none) = oneshot::channel::<()>();
                self.call(bare, message, none).await;
                self.next = Some(next);
            }
            Ask::Part(from, part) => self.part(bare, from, part).await,
            Ask::Synced(value, proposer) => self.synced(bare, value, proposer).await,
            Ask::History(to, range) => {
                let (reply, values) = oneshot::channel();
                let message = AppMsg::GetDecidedValues { range, reply };
                let values = self.call(bare, message, values).await;
                self.respond(to, values.unwrap_or_default());
            }
        }
        true
    }

    fn tell(&mut self, input: Option<Input<Ctx>>) {
        self.tells.extend(input.map(Tell::Input));
    }

    async fn part(&mut self, bare: &mut Bare<App>, from: PeerId, part: StreamMessage<Part>) {
        let (reply, value) = oneshot::channel();
        let message = AppMsg::ReceivedProposalPart {
            from,
            published_by: Some(from),
            part,
            reply,
        };
        let value = self.call(bare, message, value).await.flatten();
        self.tell(value.map(|value| Input::ProposedValue(value, ValueOrigin::Consensus)));
    }

    async fn synced(&mut self, bare: &mut Bare<App>, value: ValueResponse<Ctx>, who: Address) {
        let (reply, outcome) = oneshot::channel();
        let certificate = value.certificate;
        let message = AppMsg::ProcessSyncedValue {
            height: certificate.height,
            round: certificate.round,
            proposer: who,
            value_bytes: value.value_bytes,
            reply,
        };
        let outcome = self.call(bare, message, outcome).await;
        if let Some(SyncedValueOutcome::Verdict(mut proposed)) = outcome
            && proposed.value.id() == certificate.value_id
        {
            proposed.round = certificate.round;
            self.tell(Some(Input::ProposedValue(proposed, ValueOrigin::Sync)));
        }
    }

    fn respond(&mut self, to: usize, values: Vec<RawDecidedValue<Ctx>>) {
        use malachitebft_sync::{Response, ValueResponse};
        let Some(first) = values.first() else {
            return;
        };
        let start = first.certificate.height;
        let response = Response::ValueResponse(ValueResponse::new(start, values));
        if let Ok(bytes) = WIRE.encode(&response) {
            self.out.push(Out::One(to, Packet::Response(bytes)));
        }
    }
}
