//! What the gRPC services allow, and to whom.

use serde::{Deserialize, Serialize};

/// Who has to log in before the Audit service answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginOf {
    /// Callers that are not on this machine. Those on loopback read all: who
    /// has a shell here has the files too.
    #[default]
    Remote,
    /// All callers: for a machine with other users, or with something on it
    /// that passes on connections from elsewhere.
    All,
    /// Nobody: whoever reaches the port reads all.
    None,
}

/// What the gRPC services allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rpc {
    /// Who has to log in.
    pub login: LoginOf,
    /// The name that `login = "none"` once had; false is read and means
    /// nothing.
    #[serde(skip_serializing)]
    pub allow_remote_audit: bool,
    /// Largest request, in bytes.
    pub max_message_bytes: usize,
    /// Calls that may wait for finality at the same time.
    pub max_waiting: usize,
    /// Watches that may be open at the same time.
    pub max_watches: usize,
    /// Of one caller that logged in, or of one address beyond loopback.
    pub max_watches_per_caller: usize,
    /// Seconds after which a watcher that takes nothing is dropped.
    pub watch_stall_s: u64,
    /// Blocks that a watcher may lag behind before it is dropped.
    pub watch_buffer: usize,
    /// Histories that may be gathered at the same time; each takes about a
    /// second of a processor at most, which validating needs too.
    pub max_histories: usize,
    /// Entries of a history file, unless one block alone has more.
    pub history_entries: usize,
    /// Blocks whose receipts one file may have with their details: each is
    /// read and decoded whole.
    pub receipt_blocks: usize,
}

impl Default for Rpc {
    fn default() -> Self {
        Self {
            login: LoginOf::Remote,
            allow_remote_audit: false,
            max_message_bytes: 5 << 20,
            max_waiting: 4096,
            max_watches: 256,
            max_watches_per_caller: 8,
            watch_stall_s: 60,
            watch_buffer: 256,
            max_histories: 2,
            history_entries: 10_000,
            receipt_blocks: 1_000,
        }
    }
}
