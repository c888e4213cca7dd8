//! The gateway behind Envoy: Envoy has the connections to clients and engines
//! and asks here, by gRPC, what to do with each request.
//!
//! | service | what it is for |
//! |---|---|
//! | `envoy.service.ext_proc.v3.ExternalProcessor` ([`process`]) | everything that the proxy does: admission, hold, rewritten request, metered answer, debit |
//! | `envoy.service.auth.v3.Authorization` ([`authorize`]) | admission by key only, for routes that are not metered here: nothing is held or charged |
//!
//! `ext_proc` runs the proxy's own exchange: the request goes through
//! [`crate::proxy::Proxy::answer`], which reaches the engine by a
//! [`leg::Leg`] instead of a connection of its own. So all that holds for
//! the proxy holds here: the first byte of an answer waits for the hold's
//! record, the last one for the debit, and a client that hangs up (for Envoy:
//! a stream that simply ends) is charged for what was generated.
//!
//! A gRPC stream that is closed without an error lets Envoy go on without
//! being metered. So a stream that is not over always ends with an error.

pub mod authorize;
mod course;
pub mod leg;
mod message;
pub mod process;
