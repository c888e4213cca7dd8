//! Between the engine and its network: votes, proposals and parts of bodies
//! go over [`Direct`] streams while these reach all peers, and over the
//! engine's own network (gossipsub) when they do not. All else is the
//! engine's own.
//!
//! Why: gossipsub signs each message again and passes it on to every other
//! peer, which checks that signature each time; in a full mesh of validators
//! that is much of what a small block costs. Votes that a breaking stream
//! loses are repeated by the engine, over its own network.
//!
//! Beside that it notes in [`Origins`] who sent what by value sync.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use libp2p::PeerId;
use malachitebft_app_channel::{
    NetworkIdentity, NetworkMsg as FromHost,
    app::{
        config::NodeConfig,
        consensus::SignedConsensusMsg,
        engine::{
            network::{NetworkEvent, NetworkMsg, NetworkRef, Subscriber},
            util::output_port::{OutputPort, OutputPortSubscriberTrait},
        },
        metrics::SharedRegistry,
        spawn::spawn_network_actor,
        streaming::StreamMessage,
        types::{PeerId as EnginePeer, sync::Response},
    },
};
use malachitebft_codec::Codec;
use malachitebft_core_types::ValidatorSet;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{debug, error};

use crate::{
    codec::Wire,
    context::{Engine, Part},
    gossip::Direct,
    origins::{BODIES, Origins},
};

/// Events that may wait for the engine; it loses what it is too slow for, as
/// it does with its own network.
const EVENTS: usize = 512;
/// First byte of a frame: what follows.
const VOTE_OR_PROPOSAL: u8 = 1;
const PART: u8 = 2;

/// The actor that the engine takes for its network.
struct Relay {
    wire: Wire,
    direct: Option<Direct>,
    origins: Arc<Origins>,
}

struct State {
    engine: NetworkRef<Engine>,
    events: Arc<OutputPort<NetworkEvent<Engine>>>,
    reading: Option<JoinHandle<()>>,
    /// How many there are; more than any network has, as long as the engine
    /// has not said.
    validators: usize,
}

/// Starts the engine's network, and the relay before it.
pub(crate) async fn spawn(
    direct: Option<Direct>,
    origins: Arc<Origins>,
    identity: NetworkIdentity,
    config: &impl NodeConfig,
    wire: Wire,
) -> eyre::Result<(NetworkRef<Engine>, mpsc::Sender<FromHost<Engine>>)> {
    let registry = SharedRegistry::global().with_moniker(config.moniker());
    let (consensus, sync) = (config.consensus(), config.value_sync());
    let engine = spawn_network_actor(consensus, sync, identity, &registry, wire).await?;
    let relay = Relay {
        wire,
        direct,
        origins,
    };
    let (relay, _) = Actor::spawn(None, relay, engine).await?;
    let (sender, mut receiver) = mpsc::channel::<FromHost<Engine>>(1);
    let to = relay.clone();
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if to.cast(message.into()).is_err() {
                return;
            }
        }
    });
    Ok((relay, sender))
}

fn framed(kind: u8, message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + message.len());
    frame.put_u8(kind);
    frame.put_slice(message);
    frame.freeze()
}

impl Relay {
    /// Sends to all peers; `false`: not to each, or it has no encoding.
    fn send<T>(&self, kind: u8, message: &T, validators: usize) -> bool
    where
        Wire: Codec<T>,
    {
        let reaching = |direct: &&Direct| direct.reaches_all(validators);
        self.direct.as_ref().filter(reaching).is_some_and(|direct| {
            let message = self.wire.encode(message);
            message.is_ok_and(|message| direct.send(&framed(kind, &message)))
        })
    }

    fn publish(&self, message: NetworkMsg<Engine>, state: &State) {
        let sent = match &message {
            NetworkMsg::PublishConsensusMsg(message) => {
                self.send(VOTE_OR_PROPOSAL, message, state.validators)
            }
            NetworkMsg::PublishProposalPart(part) => self.send(PART, part, state.validators),
            _ => false,
        };
        if !sent {
            state.to_engine(message);
        }
    }
}

impl State {
    fn to_engine(&self, message: NetworkMsg<Engine>) {
        if self.engine.cast(message).is_err() {
            // Not to fail of that: why it is gone comes next, and counts.
            debug!("the network is gone; a message to it was dropped");
        }
    }
}

/// The engine has a type of its own for it.
fn engine_peer(peer: PeerId) -> Option<EnginePeer> {
    EnginePeer::from_bytes(&peer.to_bytes()).ok()
}

/// The transport's name of a peer that sent something.
pub(crate) fn sender(peer: &EnginePeer) -> Option<PeerId> {
    PeerId::from_bytes(&peer.to_bytes()).ok()
}

/// Sees what comes by value sync, whatever is made of it.
struct Watch {
    origins: Arc<Origins>,
    relay: NetworkRef<Engine>,
}

impl OutputPortSubscriberTrait<NetworkEvent<Engine>> for Watch {
    fn subscribe_to_port(&self, port: &OutputPort<NetworkEvent<Engine>>) {
        let origins = self.origins.clone();
        port.subscribe(self.relay.clone(), move |event| {
            note(&origins, &event);
            None
        });
    }
}

impl Subscriber<NetworkEvent<Engine>> for Watch {
    fn send(&self, event: NetworkEvent<Engine>) {
        note(&self.origins, &event);
    }
}

fn note(origins: &Origins, event: &NetworkEvent<Engine>) {
    let NetworkEvent::SyncResponse(_, peer, Some(Response::ValueResponse(response))) = event else {
        return;
    };
    let Some(peer) = sender(peer) else {
        return;
    };
    // Nothing has checked them: as many as are remembered are hashed, and an
    // honest peer sends fewer.
    for value in response.values.iter().take(BODIES) {
        origins.note(peer, value.height().into(), &value.value_bytes);
    }
}

/// What a frame of a peer says.
fn event(wire: &Wire, peer: PeerId, mut frame: Bytes) -> Option<NetworkEvent<Engine>> {
    let message = frame.split_off(frame.len().min(1));
    let peer = engine_peer(peer)?;
    match frame.first() {
        Some(&VOTE_OR_PROPOSAL) => {
            let message: SignedConsensusMsg<Engine> = wire.decode(message).ok()?;
            Some(match message {
                SignedConsensusMsg::Vote(vote) => NetworkEvent::Vote(peer, vote),
                SignedConsensusMsg::Proposal(proposal) => NetworkEvent::Proposal(peer, proposal),
            })
        }
        Some(&PART) => {
            let part: StreamMessage<Part> = wire.decode(message).ok()?;
            Some(NetworkEvent::ProposalPart(peer, Some(peer), part))
        }
        _ => None,
    }
}

#[async_trait::async_trait]
impl Actor for Relay {
    type Msg = NetworkMsg<Engine>;
    type State = State;
    type Arguments = NetworkRef<Engine>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        engine: NetworkRef<Engine>,
    ) -> Result<State, ActorProcessingErr> {
        // One does not live without the other.
        engine.link(myself.get_cell());
        let watch = Watch {
            origins: self.origins.clone(),
            relay: myself,
        };
        engine.cast(NetworkMsg::Subscribe(Box::new(watch)))?;
        let events = Arc::new(OutputPort::with_capacity(EVENTS));
        let reading = self.direct.as_ref().map(|direct| {
            let (mut frames, to, wire) = (direct.receive(), events.clone(), self.wire);
            tokio::spawn(async move {
                while let Some((peer, frame)) = frames.recv().await {
                    match event(&wire, peer, frame) {
                        Some(event) => to.send(event),
                        None => debug!(%peer, "a message that means nothing was dropped"),
                    }
                }
            })
        });
        Ok(State {
            engine,
            events,
            reading,
            validators: usize::MAX,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let NetworkMsg::Subscribe(subscriber) = message {
            subscriber.subscribe_to_port(&state.events);
            state.to_engine(NetworkMsg::Subscribe(subscriber));
            return Ok(());
        }
        if let NetworkMsg::UpdateValidatorSet(validators) = &message {
            state.validators = validators.count();
        }
        self.publish(message, state);
        Ok(())
    }

    /// The network has ended: so does the relay, for the same reason.
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                error!(%error, "the network failed");
                myself.stop(Some(format!("the network failed: {error}")));
            }
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
                error!(reason, "the network stopped");
                myself.stop(Some(format!("the network stopped: {reason}")));
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(reading) = &state.reading {
            reading.abort();
        }
        // If it is gone already, that is why this one stops.
        let _ = state.engine.stop_and_wait(None, None).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use malachitebft_app_channel::app::types::sync::RawDecidedValue;
    use malachitebft_core_types::{ExtendedCommitCertificate, Round, SignedMessage};
    use malachitebft_sync::{OutboundRequestId, ValueResponse};
    use tally_ledger::{
        crypto::{PublicKey, Signature},
        hash::Hash,
    };

    use super::*;
    use crate::context::{Address, BlockId, Height, Vote};

    const WIRE: Wire = Wire {
        max_response: 1 << 20,
    };

    fn a_vote() -> SignedMessage<Engine, Vote> {
        let vote = Vote {
            height: Height(7),
            round: Round::new(1),
            kind: malachitebft_core_types::VoteType::Prevote,
            block: malachitebft_core_types::NilOrVal::Nil,
            voter: Address(PublicKey([3; 32])),
        };
        SignedMessage::new(vote, Signature([5; 64]))
    }

    #[test]
    fn of_a_response_no_more_bodies_are_noted_than_are_remembered() {
        let (origins, peer) = (Origins::default(), PeerId::random());
        let value = |height: u64| {
            let certificate = ExtendedCommitCertificate {
                height: Height(height),
                round: Round::new(0),
                value_id: BlockId(Hash([0; 32])),
                commit_signatures: Vec::new(),
            };
            RawDecidedValue::new(Bytes::from_static(b"a body"), certificate)
        };
        // The lowest of all would be remembered, if it were looked at.
        let last = BODIES as u64 + 2;
        let values = (2..last).chain([1]).map(value).collect();
        let response = ValueResponse::new(Height(2), values);
        let response = Some(Response::ValueResponse(response));
        let request = OutboundRequestId::new("1");
        let from = engine_peer(peer).unwrap();
        note(
            &origins,
            &NetworkEvent::SyncResponse(request, from, response),
        );
        let noted = |height| origins.failed(height, b"a body").contains(&peer);
        assert!(!noted(tally_ledger::ids::Height(1)));
        assert!(noted(tally_ledger::ids::Height(last - 1)));
    }

    /// A network that fails of the first message.
    struct Failing;

    #[async_trait::async_trait]
    impl Actor for Failing {
        type Msg = NetworkMsg<Engine>;
        type State = ();
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            (): (),
        ) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            myself: ActorRef<Self::Msg>,
            message: Self::Msg,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            match message {
                NetworkMsg::PublishConsensusMsg(_) => Err("the port is gone".into()),
                NetworkMsg::PublishLivenessMsg(_) => {
                    myself.stop(Some("it was told to".to_owned()));
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    }

    /// Tells how what it is over has ended.
    struct Over;

    #[async_trait::async_trait]
    impl Actor for Over {
        type Msg = ();
        type State = mpsc::Sender<String>;
        type Arguments = mpsc::Sender<String>;

        async fn pre_start(
            &self,
            _: ActorRef<()>,
            ends: mpsc::Sender<String>,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(ends)
        }

        async fn handle_supervisor_evt(
            &self,
            _: ActorRef<()>,
            event: SupervisionEvent,
            ends: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            let end = match event {
                SupervisionEvent::ActorFailed(_, error) => format!("failed: {error}"),
                SupervisionEvent::ActorTerminated(_, _, reason) => format!("ended: {reason:?}"),
                _ => return Ok(()),
            };
            ends.send(end).await.map_err(Into::into)
        }
    }

    /// How a relay ends after its network got a message.
    async fn end(message: NetworkMsg<Engine>) -> String {
        let (network, _) = Actor::spawn(None, Failing, ()).await.unwrap();
        let (sender, mut ends) = mpsc::channel(1);
        let (over, _) = Actor::spawn(None, Over, sender).await.unwrap();
        let relay = Relay {
            wire: WIRE,
            direct: None,
            origins: Arc::default(),
        };
        let (relay, _) = Actor::spawn(None, relay, network).await.unwrap();
        relay.link(over.get_cell());
        // More than one: the network may be gone before it says why.
        relay.cast(message).unwrap();
        for _ in 0..100 {
            let vote = SignedConsensusMsg::Vote(a_vote());
            let _ = relay.cast(NetworkMsg::PublishConsensusMsg(vote));
            tokio::task::yield_now().await;
        }
        ends.recv().await.unwrap()
    }

    #[tokio::test]
    async fn a_network_that_ends_takes_the_relay_with_it_and_its_reason_is_kept() {
        let vote = SignedConsensusMsg::Vote(a_vote());
        assert_eq!(
            end(NetworkMsg::PublishConsensusMsg(vote)).await,
            r#"ended: Some("the network failed: the port is gone")"#
        );
        let vote = malachitebft_app_channel::app::consensus::LivenessMsg::Vote(a_vote());
        assert_eq!(
            end(NetworkMsg::PublishLivenessMsg(vote)).await,
            r#"ended: Some("the network stopped: it was told to")"#
        );
    }

    #[test]
    fn a_vote_comes_back_as_its_sender_s_and_nothing_else_means_anything() {
        let vote = a_vote();
        let message = WIRE
            .encode(&SignedConsensusMsg::Vote(vote.clone()))
            .unwrap();
        let (peer, frame) = (PeerId::random(), framed(VOTE_OR_PROPOSAL, &message));
        let got = event(&WIRE, peer, frame.clone());
        assert!(got == Some(NetworkEvent::Vote(engine_peer(peer).unwrap(), vote)));
        for length in 0..frame.len() {
            assert!(
                event(&WIRE, peer, frame.slice(..length)).is_none(),
                "cut to {length}"
            );
        }
        for kind in (0..=u8::MAX).filter(|kind| *kind != VOTE_OR_PROPOSAL) {
            assert!(
                event(&WIRE, peer, framed(kind, &message)).is_none(),
                "{kind}"
            );
        }
    }
}
