//! `tally export`: the log as files that any web server can serve and anybody
//! can check.

use std::{
    fs, io,
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
    exit::{Exit, Failure},
    finality::{check_note, invalid},
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
        genesis.json\n\nNew tiles wait in .unverified until all is verified. Run it again to \
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

/// Folder of new tiles until they are verified.
const ASIDE: &str = ".unverified";

/// Where a log comes from.
struct Origin {
    /// Its checkpoint.
    note: Vec<u8>,
    /// How many entries are there, if that is known.
    has: Option<u64>,
    source: Source,
}

impl Tiles {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let log = LogKeys::new(&self.genesis.read()?);
        let Origin { note, has, source } = match (&self.log, &self.home) {
            (Some(prefix), _) => from_log(prefix)?,
            (None, Some(home)) => from_home(home)?,
            (None, None) => bail!("--log or --home"),
        };
        let place = self
            .log
            .clone()
            .unwrap_or_else(|| "checkpoints/latest".to_owned());
        let signed = check_note(&place, &note, &log)?;
        let checkpoint = &signed.checkpoint;
        if let Some(has) = has.filter(|has| *has < checkpoint.size) {
            bail!(
                "checkpoints/latest is of {} entries, the log in data of {has}: start the node, \
                 which fetches what is missing, and export when it has stopped",
                checkpoint.size
            );
        }
        let (tiles, new) = self.fetch(checkpoint, &source)?;
        self.verify(checkpoint)?;
        self.take(checkpoint)?;
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

    /// Writes aside what is not there; how many tiles there are, and new ones.
    fn fetch(&self, checkpoint: &Checkpoint, source: &Source) -> anyhow::Result<(u64, u64)> {
        let (mut tiles, mut new) = (0, 0);
        for name in TileName::all(checkpoint.size) {
            tiles += 1;
            if self.folder.join(name.to_string()).exists() {
                continue;
            }
            new += 1;
            let aside = self.folder.join(ASIDE).join(name.to_string());
            // A run that was killed may have fetched it.
            if !aside.exists() {
                write_file(&aside, &source(&name)?)?;
            }
        }
        Ok((tiles, new))
    }

    /// Verifies what was there together with what is new; that goes if they do
    /// not fit.
    fn verify(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let aside = self.folder.join(ASIDE);
        let open = |folder: &Path| TiledLog::open(folder.to_str().context("a name of no text")?);
        let (there, new) = (open(&self.folder)?, open(&aside)?);
        let read = |name: &TileName| {
            let path = name.to_string();
            let bytes = there.read(&path)?;
            let bytes = bytes.map_or_else(|| new.read(&path), |bytes| Ok(Some(bytes)))?;
            bytes.with_context(|| format!("{name} is missing"))
        };
        match check_tiles_of(read, checkpoint) {
            Err(error) if Failure::code(&error) == Exit::Invalid => {
                remove_folder(&aside)?;
                Err(invalid(format!(
                    "{error}; nothing was added to {0}. Export again; if it is the same, a file \
                     that was in {0} before is damaged: delete its tiles, or export into another \
                     folder",
                    self.folder.display()
                )))
            }
            checked => checked.map(|_| ()),
        }
    }

    /// Gives what is new its place.
    fn take(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let aside = self.folder.join(ASIDE);
        for name in TileName::all(checkpoint.size) {
            let (path, new) = (name.to_string(), aside.join(name.to_string()));
            let path = self.folder.join(path);
            if !path.exists() {
                let at = || format!("writing {}", path.display());
                fs::create_dir_all(path.parent().with_context(at)?).with_context(at)?;
                fs::rename(&new, &path).with_context(at)?;
            }
        }
        remove_folder(&aside)
    }
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn from_log(prefix: &str) -> anyhow::Result<Origin> {
    let log = TiledLog::open(prefix)?;
    let note = log.checkpoint()?;
    let source = move |name: &TileName| log.tile(name, |full| front(name, full));
    Ok(Origin {
        note,
        has: None,
        source: Box::new(source),
    })
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

fn from_home(folder: &Path) -> anyhow::Result<Origin> {
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
    let last = store.chain().header_at(store.chain().last())?;
    let source = move |name: &TileName| {
        let _ = &lock;
        Ok(home_tile(&store, name)?)
    };
    Ok(Origin {
        note,
        // Before the first block there is the genesis's entry.
        has: Some(last.map_or(1, |header| header.log_size)),
        source: Box::new(source),
    })
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
    check_tiles_of(|name| log.tile(name, |full| front(name, full)), checkpoint)
}

/// The same of tiles that are read so.
fn check_tiles_of(
    tile: impl Fn(&TileName) -> anyhow::Result<Vec<u8>>,
    checkpoint: &Checkpoint,
) -> anyhow::Result<u64> {
    let size = checkpoint.size;
    // Of each level, the roots that the level below makes, in order. Level 0
    // is compared bundle by bundle.
    let mut made: Vec<Vec<Hash>> = vec![Vec::new(); 9];
    let mut frontier = Frontier::new();
    let mut count = 0;
    let wrong = |name: &TileName| invalid(format!("{name} is not of the checkpoint's log"));
    let hashes_of = |name: &TileName| {
        let hashes = tile_hashes(name, &tile(name)?);
        hashes.ok_or_else(|| wrong(name))
    };
    for name in TileName::all(size) {
        count += 1;
        let (level, hashes) = match name.kind {
            TileKind::Entries => {
                let hashes = bundle_hashes(&tile(&name)?, name.width);
                let hashes = hashes.map_err(|_| wrong(&name))?;
                hashes.iter().for_each(|hash| frontier.append(*hash));
                let beside = TileName {
                    kind: TileKind::Hashes(0),
                    ..name
                };
                if hashes_of(&beside)? != hashes {
                    return Err(wrong(&beside));
                }
                (0, hashes)
            }
            // Beside its entries.
            TileKind::Hashes(0) => continue,
            TileKind::Hashes(level) => (usize::from(level), hashes_of(&name)?),
        };
        let start = name.start() as usize;
        if level > 0 && made[level].get(start..start + hashes.len()) != Some(&hashes[..]) {
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
