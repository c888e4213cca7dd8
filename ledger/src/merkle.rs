//! RFC 9162 Merkle trees over SHA-256 (section 2.1): leaf prefix 0x00, node
//! prefix 0x01, the empty tree hashes to SHA-256("").

use sha2::{Digest, Sha256};

use crate::hash::Hash;

/// Hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0])
            .chain_update(leaf)
            .finalize()
            .into(),
    )
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left)
            .chain_update(right)
            .finalize()
            .into(),
    )
}
