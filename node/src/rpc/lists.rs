//! Lists of entries, with cursors: a cursor is a log index, so it stays good
//! while the log grows.

use tally_ledger::{
    entry::Entry,
    ids::{AccountNumber, ClassNumber, GatewayNumber, Height},
};
use tally_proto::{Local, convert::bytes_of, v1};
use tonic::Status;

use super::{proofs, unreadable};
use crate::view::{Listing, View};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// How many of a list are answered at most, if so many are asked for.
pub(super) fn limit(asked: u32) -> usize {
    match asked {
        0 => DEFAULT_LIMIT,
        limit => (limit as usize).min(MAX_LIMIT),
    }
}

/// Answers ListEntries.
pub(super) fn list<V: View>(
    view: &V,
    request: &v1::ListEntriesRequest,
) -> Result<v1::ListEntriesResponse, Status> {
    let listing = listing(view, request)?;
    let limit = limit(request.limit);
    let from = request.from.max(first_of(view, request.from_height)?);
    let (size, header) = view.with_state(|state, certificate| {
        let header = proofs::last_certified(state, certificate)
            .map(|(header, certificate)| v1::CertifiedHeader::new(header, certificate));
        (state.log().size(), header.ok())
    });
    // One more than asked for tells whether there are more.
    let mut indexes = view.list(listing, from, limit + 1).map_err(unreadable)?;
    indexes.retain(|index| *index < size);
    let end = end_of(view, request.to_height)?.unwrap_or(size);
    indexes.retain(|index| *index < end);
    let next = indexes.get(limit).copied().unwrap_or(0);
    indexes.truncate(limit);
    let mut entries = Vec::with_capacity(indexes.len());
    for index in indexes {
        let mut entry = v1::Entry::new(index, &entry(view, index)?);
        if request.with_paths {
            let path = view.inclusion(index, size).map_err(unreadable)?;
            entry.path = path.unwrap_or_default().iter().map(bytes_of).collect();
        }
        entries.push(entry);
    }
    Ok(v1::ListEntriesResponse {
        entries,
        next,
        header,
    })
}

fn listing<V: View>(view: &V, request: &v1::ListEntriesRequest) -> Result<Listing, Status> {
    use v1::list_entries_request::Of;
    let none = |what: &str, number: u32| {
        Err(Local::NotFound.status(format!("there is no {what} {number}")))
    };
    view.with_state(|state, _| match request.of {
        Some(Of::Account(number)) => match state.account(AccountNumber(number)) {
            Some(_) => Ok(Listing::Account(AccountNumber(number))),
            None => none("account", number),
        },
        Some(Of::Gateway(number)) => match state.gateway(GatewayNumber(number)) {
            Some(_) => Ok(Listing::Gateway(GatewayNumber(number))),
            None => none("gateway", number),
        },
        Some(Of::Class(number)) => match u16::try_from(number).map(ClassNumber) {
            Ok(class) if state.class(class).is_some() => Ok(Listing::Class(class)),
            _ => none("class", number),
        },
        Some(Of::Control(true)) => Ok(Listing::Control),
        Some(Of::All(true)) => Ok(Listing::All),
        _ => Err(Local::BadRequest
            .status("of: say whose entries: account, gateway, class, control or all")),
    })
}

fn entry<V: View>(view: &V, index: u64) -> Result<Entry, Status> {
    let entries = view.entries(index..index + 1).map_err(unreadable)?;
    entries
        .into_iter()
        .next()
        .ok_or_else(|| Local::Unavailable.status("an indexed entry is missing: run tally reindex"))
}

/// Log index of the first entry of a block; 0 for height 0.
pub(super) fn first_of<V: View>(view: &V, height: u64) -> Result<u64, Status> {
    match height {
        0 => Ok(0),
        height => Ok(end_of(view, height - 1)?.unwrap_or(1)),
    }
}

/// Size of the log after a block; `None` for height 0 (no bound) and above
/// the last.
pub(super) fn end_of<V: View>(view: &V, height: u64) -> Result<Option<u64>, Status> {
    if height == 0 {
        return Ok(None);
    }
    let header = view.header(Height(height)).map_err(unreadable)?;
    let last = || view.with_state(|state, _| state.log().size());
    Ok(Some(
        header.map_or_else(last, |(header, _)| header.log_size),
    ))
}
