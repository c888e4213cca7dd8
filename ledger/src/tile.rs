//! Tiles (C2SP tlog-tiles): the log as files of 256 hashes or entries each,
//! which any web server can serve and from which anybody makes any proof.
//!
//! ```text
//! tile/<L>/<N>            256 hashes: the roots of the complete subtrees of
//!                         256^L leaves numbered from N * 256 on
//! tile/<L>/<N>.p/<W>      the first W of them, where the log ends
//! tile/entries/<N>        256 leaves, each behind its length, u16 big-endian
//! tile/entries/<N>.p/<W>
//! ```
//!
//! N is written in groups of three digits, `x001/x234/067`. The leaves are
//! those of the log's tree: 86 bytes of a receipt, 58 of an event.

use std::fmt;

use crate::{
    checkpoint::parse_decimal,
    hash::Hash,
    merkle::{Frontier, leaf_hash},
};

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Highest level that a path may name.
const MAX_LEVEL: u8 = 63;
/// Most bytes of a path.
const MAX_PATH_BYTES: usize = 64;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileKind {
    /// Hashes of a level.
    Hashes(u8),
    /// Leaves.
    Entries,
}

/// Names a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TileName {
    /// What it holds.
    pub kind: TileKind,
    /// Which one, from 0.
    pub index: u64,
    /// How many, 1 to 256.
    pub width: u16,
}

/// A bundle of entries is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bundle does not hold {0} entries")]
pub struct BundleError(pub u16);

impl TileKind {
    /// Bits of an index that are inside one hash of the level.
    fn shift(self) -> Option<u32> {
        let level = match self {
            TileKind::Hashes(level) => u32::from(level),
            TileKind::Entries => 0,
        };
        // Beyond, no u64 of leaves makes a hash.
        (level < 8).then_some(level * 8)
    }

    /// How wide tile `index` is in a log of `size` entries; 0: it has none.
    pub fn width(self, index: u64, size: u64) -> u16 {
        let items = self.shift().map_or(0, |shift| size >> shift);
        let start = index.saturating_mul(TILE_WIDTH);
        items.saturating_sub(start).min(TILE_WIDTH) as u16
    }
}

impl TileName {
    /// The tile of a log of `size` entries; `None` if it has none.
    fn of_log(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let width = kind.width(index, size);
        (width > 0).then_some(Self { kind, index, width })
    }

    /// Whether it has all it will ever have.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// Whether a log of `size` entries has it.
    pub fn is_in(&self, size: u64) -> bool {
        self.width > 0 && self.width <= self.kind.width(self.index, size)
    }

    /// Index of its first hash in its level, or of its first entry.
    pub fn start(&self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// The tiles of a log of `size` entries, entries first, each as wide as
    /// that log has it.
    pub fn all(size: u64) -> impl Iterator<Item = TileName> {
        let levels = (0..8).map(TileKind::Hashes);
        let kinds = std::iter::once(TileKind::Entries).chain(levels);
        kinds
            .flat_map(move |kind| (0..).map_while(move |index| TileName::of_log(kind, index, size)))
    }

    /// Reads a path such as `tile/0/x001/234.p/17`; only as [`fmt::Display`]
    /// writes it.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > MAX_PATH_BYTES {
            return None;
        }
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = parse_decimal(level).filter(|level| *level <= MAX_LEVEL.into())?;
                TileKind::Hashes(level as u8)
            }
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => {
                let partial = |width: &u64| (1..TILE_WIDTH).contains(width);
                (groups, parse_decimal(width).filter(partial)? as u16)
            }
            None => (rest, TILE_WIDTH as u16),
        };
        let mut index = 0u64;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let digits: u64 = digits.parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(digits)?;
        }
        index.checked_mul(TILE_WIDTH)?;
        let name = Self { kind, index, width };
        (name.to_string() == path).then_some(name)
    }
}

impl fmt::Display for TileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}")?,
            TileKind::Entries => f.write_str("tile/entries")?,
        }
        let digits = self.index.to_string();
        let digits = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
        let groups = digits.len() / 3;
        for i in 0..groups {
            let mark = if i + 1 < groups { "x" } else { "" };
            write!(f, "/{mark}{}", &digits[3 * i..3 * i + 3])?;
        }
        match self.is_full() {
            true => Ok(()),
            false => write!(f, ".p/{}", self.width),
        }
    }
}

/// The root of a complete subtree, as [`crate::merkle`] names them, of a log
/// of `size` entries, from its tiles. `read` gives a tile's hashes, exactly as
/// many as its name says.
pub fn subtree<E>(
    level: u32,
    index: u64,
    size: u64,
    read: &mut impl FnMut(TileName) -> Result<Vec<Hash>, E>,
) -> Result<Hash, E> {
    let (tile_level, above) = (level / 8, level % 8);
    let first = index << above;
    let kind = TileKind::Hashes(tile_level as u8);
    let name = TileName::of_log(kind, first / TILE_WIDTH, size);
    let name = name.expect("a complete subtree is in the tiles of its level");
    let hashes = read(name)?;
    assert_eq!(
        hashes.len(),
        usize::from(name.width),
        "the hashes of {name}"
    );
    let start = (first % TILE_WIDTH) as usize;
    let mut frontier = Frontier::new();
    for hash in &hashes[start..start + (1 << above)] {
        frontier.append(*hash);
    }
    Ok(frontier.root())
}

/// The hashes that a tile's bytes hold; `None` unless it is as wide as its
/// name says.
pub fn tile_hashes(name: &TileName, bytes: &[u8]) -> Option<Vec<Hash>> {
    if bytes.len() != usize::from(name.width) * 32 {
        return None;
    }
    let hash = |bytes: &[u8]| Hash(bytes.try_into().expect("chunks of 32"));
    Some(bytes.chunks_exact(32).map(hash).collect())
}

/// Adds a leaf to a bundle of entries. A leaf has less than 64 KiB.
pub fn push_entry(bundle: &mut Vec<u8>, leaf: &[u8]) {
    let length = u16::try_from(leaf.len()).expect("leaves are short");
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(leaf);
}

/// The leaves of a bundle that holds exactly `count`.
pub fn bundle_entries(bytes: &[u8], count: u16) -> Result<Vec<&[u8]>, BundleError> {
    let wrong = BundleError(count);
    let mut rest = bytes;
    let mut leaves = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(wrong)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (leaf, tail) = tail.split_at_checked(length).ok_or(wrong)?;
        leaves.push(leaf);
        rest = tail;
    }
    match rest.is_empty() {
        true => Ok(leaves),
        false => Err(wrong),
    }
}

/// Hashes of the leaves of a bundle: those of the tile of level 0 beside it.
pub fn bundle_hashes(bytes: &[u8], count: u16) -> Result<Vec<Hash>, BundleError> {
    let leaves = bundle_entries(bytes, count)?;
    Ok(leaves.into_iter().map(leaf_hash).collect())
}
