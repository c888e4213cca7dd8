//! `tally export`: the log as files that any web server can serve and anybody
//! can check.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use serde_json::json;
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys},
    hash::Hash,
    merkle::Frontier,
    tile::{TileKind, TileName, bundle_entries, bundle_hashes, push_entry, tile_hashes},
};
use tally_node::{checkpoint::home_tile, home::Home, storage::RealDisk, store::Store};

use super::{
    args::GenesisArg,
    exit::Exit,
    finality::invalid,
    output::{self, Format},
    tiled::TiledLog,
};

/// Exports: the log as files
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ExportCommand {
    /// Write the checkpoint, the tiles and the entries of the log (C2SP tlog-tiles)
    #[command(
        after_help = "Example:\n  tally export tiles /srv/log --log http://127.0.0.1:26653 \
        --genesis genesis.json\n  tally export tiles /srv/log --home v0 --genesis \
        genesis.json\n\nEverything is verified before the checkpoint is written. Run it again to \
        add what is new:\nfull tiles that are there are not fetched again. With --home the node \
        must not run."
    )]
    Tiles(Tiles),
}

/// Arguments of `export tiles`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("from").required(true)))]
pub(crate) struct Tiles {
    /// Folder to write into
    folder: PathBuf,
    /// From a node that runs, or another tiled log: an address or a folder
    #[arg(long, group = "from", value_name = "PREFIX")]
    log: Option<String>,
    /// From the home of a node that does not run
    #[arg(long, group = "from", value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(flatten)]
    genesis: GenesisArg,
}

impl ExportCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            ExportCommand::Tiles(tiles) => tiles.run(format),
        }
    }
}

/// Gives a tile's bytes.
type Source = Box<dyn Fn(&TileName) -> anyhow::Result<Vec<u8>>>;

impl Tiles {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let log = LogKeys::new(&self.genesis.read()?);
        let (note, source) = match (&self.log, &self.home) {
            (Some(prefix), _) => from_log(prefix)?,
            (None, Some(home)) => from_home(home)?,
            (None, None) => bail!("--log or --home"),
        };
        let signed = log.read(&note).map_err(invalid)?;
        let checkpoint = &signed.checkpoint;
        let (mut tiles, mut new) = (0, 0);
        for name in TileName::all(checkpoint.size) {
            let path = self.folder.join(name.to_string());
            tiles += 1;
            if !path.exists() {
                write_file(&path, &source(&name)?)?;
                new += 1;
            }
        }
        let folder = self
            .folder
            .to_str()
            .context("the folder's name is no text")?;
        check_tiles(&TiledLog::open(folder)?, checkpoint)?;
        write_file(&self.folder.join("checkpoint"), note.as_slice())?;
        let value = json!({
            "folder": self.folder,
            "entries": checkpoint.size,
            "root": checkpoint.root,
            "validators": signed.signers,
            "tiles": tiles,
            "new": new,
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

fn from_log(prefix: &str) -> anyhow::Result<(Vec<u8>, Source)> {
    let log = TiledLog::open(prefix)?;
    let note = log.checkpoint()?;
    let source = move |name: &TileName| log.tile(name, |full| front(name, full));
    Ok((note, Box::new(source)))
}

/// The first items of a full tile's bytes.
fn front(name: &TileName, full: &[u8]) -> Option<Vec<u8>> {
    match name.kind {
        TileKind::Hashes(_) => full.get(..usize::from(name.width) * 32).map(<[u8]>::to_vec),
        TileKind::Entries => {
            let mut bytes = Vec::new();
            let leaves = bundle_entries(full, 256).ok()?;
            for leaf in &leaves[..name.width.into()] {
                push_entry(&mut bytes, leaf);
            }
            Some(bytes)
        }
    }
}

fn from_home(folder: &Path) -> anyhow::Result<(Vec<u8>, Source)> {
    let home = Home::new(folder);
    let (config, genesis) = (home.config()?, home.genesis()?);
    let lock = home.lock()?;
    let path = home.checkpoints().join("latest");
    let note = fs::read(&path).with_context(|| {
        format!(
            "{}: no checkpoint with a quorum was signed yet",
            path.display()
        )
    })?;
    let store = Store::open(Arc::new(RealDisk), &home.data(), genesis, &config.storage)?;
    let source = move |name: &TileName| {
        let _ = &lock;
        Ok(home_tile(&store, name)?)
    };
    Ok((note, Box::new(source)))
}

/// Writes a file so that its name never names a part of it.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let at = || format!("writing {}", path.display());
    let folder = path.parent().with_context(at)?;
    fs::create_dir_all(folder).with_context(at)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(at)?;
    std::io::Write::write_all(&mut file, bytes).with_context(at)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).with_context(at)?;
    file.as_file().sync_all().with_context(at)?;
    file.persist(path).with_context(at)?;
    Ok(())
}

/// Checks that every tile and every entry leads to a checkpoint's root; how
/// many tiles there are.
pub(crate) fn check_tiles(log: &TiledLog, checkpoint: &Checkpoint) -> anyhow::Result<u64> {
    let size = checkpoint.size;
    // Of each level, the roots that the level below makes, in order.
    let mut made: Vec<Vec<Hash>> = vec![Vec::new(); 9];
    let mut frontier = Frontier::new();
    let mut count = 0;
    let wrong = |name: &TileName| invalid(format!("{name} is not of the checkpoint's log"));
    for name in TileName::all(size) {
        let bytes = log.tile(&name, |full| front(&name, full))?;
        count += 1;
        let level = match name.kind {
            TileKind::Entries => {
                let hashes = bundle_hashes(&bytes, name.width).map_err(|_| wrong(&name))?;
                for hash in &hashes {
                    frontier.append(*hash);
                }
                made[0].extend(hashes);
                continue;
            }
            TileKind::Hashes(level) => usize::from(level),
        };
        let hashes = tile_hashes(&name, &bytes).ok_or_else(|| wrong(&name))?;
        let start = name.start() as usize;
        if made[level].get(start..start + hashes.len()) != Some(&hashes[..]) {
            return Err(wrong(&name));
        }
        if name.is_full() {
            let mut whole = Frontier::new();
            hashes.iter().for_each(|hash| whole.append(*hash));
            made[level + 1].push(whole.root());
        }
    }
    match frontier.root() == checkpoint.root {
        true => Ok(count),
        false => Err(invalid(format!(
            "the entries have root {}, the checkpoint of {size} entries {}",
            frontier.root(),
            checkpoint.root
        ))),
    }
}
