//! Many receipts in one file: fetching, for `tally receipt`.

use anyhow::Context;
use tally_proto::v1::{self, entry::Fact, list_entries_request::Of};

use super::client::{Client, failure};

/// Entries that are listed at once.
const PAGE: u32 = 1_000;

/// A receipts file from a node.
pub(crate) async fn fetch(
    client: &mut Client,
    request: v1::GetReceiptsRequest,
) -> anyhow::Result<Vec<u8>> {
    let answer = client.audit.get_receipts(request).await;
    Ok(answer.map_err(|e| failure(&e))?.into_inner().file.to_vec())
}

/// Log indexes of an account's receipts between two heights; 0: no bound. A
/// node may leave some out: that none is missing is what a history proves.
pub(crate) async fn of_account(
    client: &mut Client,
    account: u32,
    from_height: u64,
    to_height: u64,
) -> anyhow::Result<Vec<u64>> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let request = v1::ListEntriesRequest {
            of: Some(Of::Account(account)),
            from,
            limit: PAGE,
            from_height,
            to_height,
            ..Default::default()
        };
        let page = client.audit.list_entries(request).await;
        let page = page.map_err(|e| failure(&e))?.into_inner();
        let receipts = page.entries.iter();
        let receipts = receipts.filter(|entry| matches!(entry.fact, Some(Fact::Receipt(_))));
        found.extend(receipts.map(|entry| entry.index));
        if page.next <= from {
            break;
        }
        from = page.next;
    }
    let first = found.first().copied();
    first.with_context(|| format!("account {account} has no receipt there"))?;
    Ok(found)
}
