//! What the proxy does by policy: all of it can be replaced by a reload. A
//! request goes by what it saw when it came.

use std::time::Duration;

use crate::config::{FreeRoute, GatewayConfig, Priority};

/// The policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a place in a queue costs.
    pub priority: Priority,
    /// The free routes that are served.
    pub free: Vec<FreeRoute>,
    /// Most bytes of all requests' bodies in memory.
    pub bodies_bytes: u64,
    /// Longest that a body may take to arrive.
    pub body_time: Duration,
    /// Most bytes of an answer that is not streamed, and of one event.
    pub answer_bytes: usize,
    /// Longest request.
    pub request_time: Duration,
    /// Longest that a client may read nothing of its stream.
    pub stall_time: Duration,
    /// How long running requests may finish when stopping.
    pub drain_time: Duration,
}

impl Policy {
    /// As configured.
    pub fn of(config: &GatewayConfig) -> Self {
        let limits = &config.limits;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Policy {
            priority: config.priority,
            free: config.routes.free.clone(),
            bodies_bytes: limits.bodies_bytes,
            body_time: seconds(limits.body_seconds),
            answer_bytes: limits.answer_bytes as usize,
            request_time: seconds(limits.request_seconds),
            stall_time: seconds(limits.stall_seconds),
            drain_time: seconds(limits.drain_seconds),
        }
    }
}
