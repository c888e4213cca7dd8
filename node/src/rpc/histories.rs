//! History files: all entries of somebody between two heights, with the proof
//! that none is missing. A file covers as many heights as fit; the next one
//! goes on from there.

use std::{ops::Range, time::Duration};

use tally_ledger::{
    certified::CertifiedHeader,
    codec::List,
    entry::Entry,
    history::{HistoryFile, Shown, Subject},
    ids::{AccountNumber, GatewayNumber, Height},
    state_proof::StateProof,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::{lists, proofs, unreadable};
use crate::view::{Listing, View};

/// Entries of others in the listing that are skipped for one question.
const MOST_SKIPPED: usize = 100_000;
/// How long the index may lag behind the state, in ms.
const INDEX_MS: u64 = 1_000;
/// Log indexes asked for at once.
const STEP: usize = 4_096;

/// Where the log stood when the question came.
struct Now {
    certified: CertifiedHeader,
    end: StateProof,
}

impl Now {
    fn of<V: View>(view: &V, subject: Subject) -> Result<Self, Status> {
        let (table, number) = subject.end();
        view.with_state(|state, certificate| {
            let (header, certificate) = proofs::last_certified(state, certificate)?;
            Ok(Now {
                certified: proofs::certified(header, certificate),
                end: state.prove(table, number),
            })
        })
    }

    fn size(&self) -> u64 {
        self.certified.header.log_size
    }

    fn height(&self) -> u64 {
        self.certified.header.height.0
    }
}

/// Answers GetHistory with at most about `most` entries.
pub(super) fn history<V: View>(
    view: &V,
    request: &v1::GetHistoryRequest,
    most: usize,
) -> Result<v1::GetHistoryResponse, Status> {
    let subject = subject(request)?;
    let now = Now::of(view, subject)?;
    wait_for_index(view, now.certified.header.height)?;
    let from = request.from_height;
    let to = match request.to_height {
        0 => now.height(),
        to => to,
    };
    if to > now.height() {
        let why = format!(
            "the last block here is {}: without a last height the history ends there",
            now.height()
        );
        return Err(Local::NotFound.status(why));
    }
    if from > to {
        let why = format!("heights must satisfy from <= to, and {from} is above {to}");
        return Err(Local::BadRequest.status(why));
    }
    let start = lists::first_of(view, from)?;
    let stop = lists::end_of(view, to)?.unwrap_or(1).min(now.size());
    let mut row = Row {
        view,
        subject,
        size: now.size(),
        most,
        skipped: 0,
        entries: Vec::new(),
    };
    let to = row.gather(from, start..stop, Height(to))?;
    let indexes: Vec<u64> = row.entries.iter().map(|(index, _)| *index).collect();
    let path = view.multi_path(&indexes, now.size()).map_err(unreadable)?;
    let behind = row
        .entries
        .last()
        .is_some_and(|(_, entry)| entry.height() > to);
    let next = if to.0 < request.to_height || (request.to_height == 0 && to.0 < now.height()) {
        to.0 + 1
    } else {
        0
    };
    let shown = row.entries.into_iter();
    let file = HistoryFile {
        certified: now.certified,
        subject,
        from: Height(from),
        to,
        entries: bounded(
            shown
                .map(|(index, entry)| (index, Shown::from(entry)))
                .collect(),
        )?,
        path: bounded(path.unwrap_or_default())?,
        end: (!behind).then_some(now.end),
    };
    Ok(v1::GetHistoryResponse {
        file: file.encode().into(),
        next_height: next,
    })
}

fn subject(request: &v1::GetHistoryRequest) -> Result<Subject, Status> {
    use v1::get_history_request::Of;
    match request.of {
        Some(Of::Account(number)) => Ok(Subject::Account(AccountNumber(number))),
        Some(Of::Gateway(number)) => Ok(Subject::Gateway(GatewayNumber(number))),
        Some(Of::Control(true)) => Ok(Subject::Control),
        _ => Err(Local::BadRequest.status("of: say whose history: account, gateway or control")),
    }
}

/// The state is committed a moment before its entries are listed.
fn wait_for_index<V: View>(view: &V, height: Height) -> Result<(), Status> {
    for _ in 0..INDEX_MS {
        if view.indexed() >= height {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Local::Unavailable.status("the index is behind; ask again later"))
}

fn listing(subject: Subject) -> Listing {
    match subject {
        Subject::Account(number) => Listing::Account(number),
        Subject::Gateway(number) => Listing::Gateway(number),
        Subject::Control => Listing::Control,
    }
}

/// Entries of a subject with their neighbours, in the order of the log.
struct Row<'a, V> {
    view: &'a V,
    subject: Subject,
    /// Size of the log under whose root they are shown.
    size: u64,
    /// Entries that are enough, at the end of a block.
    most: usize,
    skipped: usize,
    entries: Vec<(u64, Entry)>,
}

impl<V: View> Row<'_, V> {
    /// Gathers the neighbour before, all within, and the one behind; up to
    /// the height that fits, which it gives back.
    fn gather(&mut self, from: u64, within: Range<u64>, to: Height) -> Result<Height, Status> {
        if from > 0 {
            self.push_before(within.start)?;
        }
        let mut cursor = within.start;
        loop {
            let listed = self.view.list(listing(self.subject), cursor, STEP);
            let listed = listed.map_err(unreadable)?;
            let Some(last) = listed.last() else {
                return Ok(to);
            };
            cursor = last + 1;
            for (index, entry) in self.read(&listed)? {
                let height = entry.height();
                let full = self.entries.len() >= self.most && self.ends_block(height);
                self.entries.push((index, entry));
                if index >= within.end {
                    return Ok(to);
                }
                if full {
                    return Ok(Height(height.0 - 1));
                }
            }
        }
    }

    /// Whether a height is later than that of the last one gathered.
    fn ends_block(&self, height: Height) -> bool {
        let last = self.entries.last().map(|(_, entry)| entry.height());
        last.is_some_and(|last| last < height)
    }

    /// The subject's entries among these, within the log's size.
    fn read(&mut self, listed: &[u64]) -> Result<Vec<(u64, Entry)>, Status> {
        let mut found = Vec::with_capacity(listed.len());
        for run in listed.chunk_by(|a, b| a + 1 == *b) {
            let end = (run[0] + run.len() as u64).min(self.size);
            if run[0] >= end {
                break;
            }
            let entries = self.view.entries(run[0]..end).map_err(unreadable)?;
            found.extend((run[0]..).zip(entries));
        }
        let read = found.len();
        found.retain(|(_, entry)| self.subject.has(entry));
        self.skipped += read - found.len();
        if self.skipped > MOST_SKIPPED {
            let why =
                "too many entries that are not asked about lie between; ask for other heights";
            return Err(Local::Busy.status(why));
        }
        Ok(found)
    }

    /// The subject's last entry before an index, if there is one.
    fn push_before(&mut self, mut index: u64) -> Result<(), Status> {
        while self.entries.is_empty() {
            let before = self.view.last_before(listing(self.subject), index);
            let Some(before) = before.map_err(unreadable)? else {
                return Ok(());
            };
            self.entries = self.read(&[before])?;
            index = before;
        }
        Ok(())
    }
}

fn bounded<T, const MAX: usize>(items: Vec<T>) -> Result<List<T, MAX>, Status> {
    List::new(items).map_err(|_| Local::Unavailable.status("a proof is longer than its bound"))
}
