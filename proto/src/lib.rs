//! Transport of Tally: the generated protobuf code of `tally.v1`, and its
//! conversions from and to the ledger's own types.
//!
//! Protobuf is never signed or hashed. Conversions to protobuf always
//! succeed; those from it are `TryFrom`, bounded, and say which field is
//! wrong. Refusals travel as `google.rpc.ErrorInfo` (see [`error`]).

pub mod convert;
pub mod error;
pub mod jwt;
pub mod login;

pub use convert::FieldError;
pub use error::{Local, Problem};
pub use login::{LoggedIn, Login};

/// Generated from `proto/tally/v1/*.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tally.v1");
}

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tally.v1.bin"));
