//! A tiled log (C2SP tlog-tiles) as commands read it: a folder that `tally
//! export tiles` wrote, or the address of a node or of any web server that
//! has such a folder. Nothing that it says is believed before it leads to the
//! root of a checkpoint.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf};

use anyhow::{Context, ensure};
use tally_ledger::{
    checkpoint::Checkpoint,
    hash::Hash,
    merkle::{consistency_path, inclusion_path, tree_root, verify_consistency},
    tile::{TileName, subtree, tile_hashes},
};
use tally_node::web::{Web, is_url};
use tokio::runtime::Runtime;

use super::{
    args::runtime,
    exit::{Exit, Failure},
};

/// Most tiles that are remembered.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Web(Box<Site>),
}

/// An address, and what asks there.
#[derive(Debug)]
struct Site {
    prefix: String,
    web: Web,
    runtime: Runtime,
}

/// Where a log's tiles are.
#[derive(Debug)]
pub(crate) struct TiledLog {
    place: Place,
    tiles: RefCell<BTreeMap<TileName, Vec<Hash>>>,
}

impl TiledLog {
    /// A folder, or an address that begins with `http://` or `https://`.
    pub(crate) fn open(prefix: &str) -> anyhow::Result<Self> {
        let place = if is_url(prefix) {
            Place::Web(Box::new(Site {
                prefix: prefix.trim_end_matches('/').to_owned(),
                web: Web::new(),
                runtime: runtime()?,
            }))
        } else {
            Place::Folder(prefix.into())
        };
        let tiles = RefCell::default();
        Ok(Self { place, tiles })
    }

    /// A file below the prefix; `None`: it is not there.
    pub(crate) fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(name);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
                }
            }
            Place::Web(site) => {
                let Site {
                    prefix,
                    web,
                    runtime,
                } = site.as_ref();
                let url = format!("{prefix}/{name}");
                let answer = runtime.block_on(web.get(&url));
                let (status, bytes) = answer.map_err(|error| {
                    let hint = "a node serves its log at the `http` address of its config.toml";
                    Failure::error(Exit::Unreachable, format!("{error}; {hint}"))
                })?;
                match status.as_u16() {
                    200 => Ok(Some(bytes.to_vec())),
                    404 => Ok(None),
                    other => Err(Failure::error(
                        Exit::Unreachable,
                        format!("{url} answers {other}"),
                    )),
                }
            }
        }
    }

    /// The log's checkpoint, as it is there.
    pub(crate) fn checkpoint(&self) -> anyhow::Result<Vec<u8>> {
        self.read("checkpoint")?.with_context(|| {
            "there is no `checkpoint`: give the folder or address of a tiled log, such as \
             http://127.0.0.1:26653 of a node"
        })
    }

    /// A tile's bytes: of hashes or of entries. Where a partial one is gone,
    /// `full` gives the front of the full one.
    pub(crate) fn tile(
        &self,
        name: &TileName,
        front: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> anyhow::Result<Vec<u8>> {
        if let Some(bytes) = self.read(&name.to_string())? {
            return Ok(bytes);
        }
        let full = TileName {
            width: 256,
            ..*name
        };
        let bytes = match name.is_full() {
            true => None,
            false => self
                .read(&full.to_string())?
                .and_then(|bytes| front(&bytes)),
        };
        bytes.with_context(|| format!("{name} is missing"))
    }

    fn hashes(&self, name: TileName) -> anyhow::Result<Vec<Hash>> {
        if let Some(hashes) = self.tiles.borrow().get(&name) {
            return Ok(hashes.clone());
        }
        let front = |bytes: &[u8]| {
            bytes
                .get(..usize::from(name.width) * 32)
                .map(<[u8]>::to_vec)
        };
        let bytes = self.tile(&name, front)?;
        let hashes = tile_hashes(&name, &bytes);
        let hashes = hashes.with_context(|| format!("{name} has {} bytes", bytes.len()))?;
        let mut tiles = self.tiles.borrow_mut();
        if tiles.len() >= REMEMBERED {
            tiles.pop_first();
        }
        tiles.insert(name, hashes.clone());
        Ok(hashes)
    }

    fn subtree(&self, level: u32, index: u64, size: u64) -> anyhow::Result<Hash> {
        subtree(level, index, size, &mut |name| self.hashes(name))
    }

    /// The path of an entry in a log of `size` entries; whoever uses it
    /// checks it.
    pub(crate) fn inclusion(&self, index: u64, size: u64) -> anyhow::Result<Vec<Hash>> {
        ensure!(index < size, "entry {index} is not in a log of {size}");
        inclusion_path(index, size, |l, i| self.subtree(l, i, size))
    }

    /// Root of the first `size` entries of the log that a checkpoint is of,
    /// proven to lead to the checkpoint's root.
    pub(crate) fn beginning(&self, size: u64, of: &Checkpoint) -> anyhow::Result<Hash> {
        ensure!(
            size <= of.size,
            "a log of {} has no {size} entries",
            of.size
        );
        let root = tree_root(size, |l, i| self.subtree(l, i, of.size))?;
        let path = consistency_path(size, of.size, |l, i| self.subtree(l, i, of.size))?;
        let proven = verify_consistency(size, of.size, &root, &of.root, &path);
        match proven {
            true => Ok(root),
            false => Err(Failure::error(
                Exit::Invalid,
                format!(
                    "the tiles do not lead to the root of the checkpoint of {}",
                    of.size
                ),
            )),
        }
    }
}
