//! AuditService: reads history and state. Nothing it answers has to be
//! believed: headers bring certificates, leaves and receipts proofs. Only a
//! unit's totals and the access log are this node's word.
//!
//! Every method passes the gate with what it asks before it answers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tally_ledger::{
    entry::Entry,
    ids::{
        AccountNumber, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, Height,
        JournalNumber, Person,
    },
    person::Roles,
    state::State,
    transaction::AuthorKind,
    tree::Table,
};
use tally_proto::{
    Local,
    convert::{bytes_of, key},
    v1::{self, audit_service_server::AuditService, get_receipt_request::By},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::{
    gate::{Gate, Visit},
    histories, lists,
    places::Places,
    proofs,
    proven_block::ProvenBlocks,
    reads::Reads,
    receipts,
    rules::Ask,
    units, unreadable, watch,
};
use crate::{
    access_log::{AccessLog, Record},
    config::Rpc,
    view::{CommittedBlock, ReceiptName, View},
};

/// The service.
pub(super) struct Service<V> {
    view: Arc<V>,
    gate: Gate<V>,
    reads: Reads<V>,
    log: AccessLog,
    blocks: Arc<ProvenBlocks>,
    watches: Places,
    histories: Arc<Semaphore>,
    lag: u64,
    stall: Duration,
    history_entries: usize,
    receipt_blocks: usize,
}

impl<V: View> Service<V> {
    pub(super) fn new(view: Arc<V>, log: AccessLog, config: &Rpc) -> Self {
        Self {
            gate: Gate::new(view.clone(), log.clone()),
            reads: Reads::new(view.clone()),
            log,
            view,
            blocks: Arc::default(),
            watches: Places::new(config.max_watches, config.max_watches_per_caller),
            histories: Arc::new(Semaphore::new(config.max_histories)),
            lag: config.watch_buffer as u64,
            stall: Duration::from_secs(config.watch_stall_s),
            history_entries: config.history_entries,
            receipt_blocks: config.receipt_blocks,
        }
    }

    /// Whether a request may be answered.
    fn pass<T>(&self, request: &Request<T>, method: &'static str, ask: &Ask) -> Result<(), Status> {
        self.gate.pass(&Visit::of(request, method), ask)
    }

    /// A place for what takes long; the work takes it along.
    fn history_place(&self, busy: &str) -> Result<OwnedSemaphorePermit, Status> {
        let place = self.histories.clone().try_acquire_owned();
        place.map_err(|_| Local::Busy.status(busy))
    }

    fn proof(&self, table: Table, number: u32) -> Result<v1::StateProof, Status> {
        self.view
            .with_state(|state, certificate| proofs::state_proof(state, certificate, table, number))
    }
}

/// What a leaf discloses.
fn ask_of_leaf(state: &State, table: Table, number: u32) -> Ask {
    match table {
        Table::Chain | Table::Parameters | Table::PriceTables | Table::Validators => Ask::Chain,
        Table::Persons => Ask::Person(Person(number)),
        Table::Accounts => Ask::Account(AccountNumber(number)),
        Table::Gateways => Ask::Gateway(GatewayNumber(number)),
        Table::Classes => Ask::Classes,
        Table::ApiKeys => ask_of_key(state, Some(ApiKeyNumber(number))),
        Table::IdBuckets | Table::Corrections => Ask::Everything,
    }
}

fn ask_of_key(state: &State, number: Option<ApiKeyNumber>) -> Ask {
    let api_key = number.and_then(|number| state.api_key(number));
    Ask::ApiKey(api_key.map(|api_key| api_key.account))
}

/// What entries disclose; the request itself is checked later.
fn ask_of_list(request: &v1::ListEntriesRequest) -> Ask {
    use v1::list_entries_request::Of;
    match request.of {
        Some(Of::Account(number)) => Ask::AccountEntries(AccountNumber(number)),
        Some(Of::Gateway(number)) => Ask::GatewayEntries(GatewayNumber(number)),
        Some(Of::Class(_) | Of::All(true)) => Ask::Everything,
        Some(Of::Control(true)) => Ask::Control,
        _ => Ask::Login,
    }
}

fn ask_of_history(request: &v1::GetHistoryRequest) -> Ask {
    use v1::get_history_request::Of;
    match request.of {
        Some(Of::Account(number)) => Ask::AccountEntries(AccountNumber(number)),
        Some(Of::Gateway(number)) => Ask::GatewayEntries(GatewayNumber(number)),
        Some(Of::Control(true)) => Ask::Control,
        _ => Ask::Login,
    }
}

/// What a receipt discloses; anything else at that index is nobody's own.
fn ask_of_receipt<V: View>(view: &V, index: u64) -> Result<Ask, Status> {
    let entries = view.entries(index..index.saturating_add(1));
    Ok(match entries.map_err(unreadable)?.first() {
        Some(Entry::Receipt(receipt)) => Ask::Receipt(receipt.account, receipt.position.gateway),
        _ => Ask::Everything,
    })
}

/// The same of many, each once.
fn asks_of_receipts<V: View>(view: &V, indexes: &BTreeSet<u64>) -> Result<Vec<Ask>, Status> {
    let asks = indexes.iter().map(|index| ask_of_receipt(view, *index));
    let asks: BTreeSet<Ask> = asks.collect::<Result<_, _>>()?;
    Ok(asks.into_iter().collect())
}

fn no_block(height: u64) -> Status {
    Local::NotFound.status(format!("there is no block {height} here (yet)"))
}

/// Height 0 in a request means the last.
fn height_of<V: View>(view: &V, height: u64) -> Height {
    match height {
        0 => view.with_state(|state, _| state.height()),
        height => Height(height),
    }
}

fn block_at<V: View>(view: &V, height: u64) -> Result<Arc<CommittedBlock>, Status> {
    let block = view.block(height_of(view, height)).map_err(unreadable)?;
    block.ok_or_else(|| no_block(height))
}

/// The log indexes of all receipts that a request names, at most `most`.
fn receipt_indexes<V: View>(
    view: &V,
    request: v1::GetReceiptsRequest,
    most: usize,
) -> Result<BTreeSet<u64>, Status> {
    let v1::GetReceiptsRequest {
        indexes,
        holds,
        debits,
        ..
    } = request;
    let count = indexes.len() + holds.len() + debits.len();
    if count == 0 || count > most {
        let why = format!(
            "name 1 to {most} receipts by index, hold or debit, not {count} (`tally receipt get \
             --account` takes fewer with --from and --to)"
        );
        return Err(Local::BadRequest.status(why));
    }
    let indexes = indexes.into_iter().map(By::Index);
    let holds = holds.into_iter().map(By::Hold);
    let named = indexes
        .chain(holds)
        .chain(debits.into_iter().map(By::Debit));
    named.map(|by| receipt_index(view, Some(&by))).collect()
}

fn receipt_index<V: View>(view: &V, by: Option<&By>) -> Result<u64, Status> {
    let name = match by {
        Some(By::Index(index)) => return Ok(*index),
        Some(By::Hold(hold)) => ReceiptName::Hold(
            GatewayNumber(hold.gateway),
            JournalNumber(hold.journal),
            hold.number,
        ),
        Some(By::Debit(debit)) => ReceiptName::Debit(
            GatewayNumber(debit.gateway),
            JournalNumber(debit.journal),
            DebitNumber(debit.number),
        ),
        None => {
            return Err(Local::BadRequest.status("by: name the receipt by index, hold or debit"));
        }
    };
    let found = view.find_receipt(name).map_err(unreadable)?;
    found.ok_or_else(|| Local::NotFound.status("there is no such receipt here (yet)"))
}

#[tonic::async_trait]
impl<V: View> AuditService for Service<V> {
    async fn get_header(
        &self,
        request: Request<v1::GetHeaderRequest>,
    ) -> Result<Response<v1::GetHeaderResponse>, Status> {
        self.pass(&request, "GetHeader", &Ask::Chain)?;
        let height = request.into_inner().height;
        let read = move |view: &V| {
            let header = view.header(height_of(view, height)).map_err(unreadable)?;
            let (header, certificate) = header.ok_or_else(|| no_block(height))?;
            Ok(v1::GetHeaderResponse {
                header: Some(v1::CertifiedHeader::new(&header, &certificate)),
            })
        };
        self.reads.run(read).await.map(Response::new)
    }

    async fn get_block(
        &self,
        request: Request<v1::GetBlockRequest>,
    ) -> Result<Response<v1::GetBlockResponse>, Status> {
        self.pass(&request, "GetBlock", &Ask::Everything)?;
        let height = request.into_inner().height;
        let read = move |view: &V| {
            let found = block_at(view, height)?;
            Ok(v1::GetBlockResponse {
                header: Some(v1::CertifiedHeader::new(
                    &found.block.header,
                    &found.certificate,
                )),
                block: found.encode().into(),
                transactions: found.transactions.iter().map(bytes_of).collect(),
                first_entry: found.first_entry,
                redacted: !found.redacted.is_empty(),
            })
        };
        self.reads.run(read).await.map(Response::new)
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let number = AccountNumber(request.get_ref().account);
        self.pass(&request, "GetAccount", &Ask::Account(number))?;
        self.view.with_state(|state, certificate| {
            let account = state
                .account(number)
                .ok_or_else(|| Local::NotFound.status(format!("there is no account {number}")))?;
            let mut answer = v1::GetAccountResponse::new(number, account);
            let proof = proofs::state_proof(state, certificate, Table::Accounts, number.0)?;
            answer.proof = Some(proof);
            Ok(Response::new(answer))
        })
    }

    async fn get_gateway(
        &self,
        request: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::GetGatewayResponse>, Status> {
        let number = GatewayNumber(request.get_ref().gateway);
        self.pass(&request, "GetGateway", &Ask::Gateway(number))?;
        self.view.with_state(|state, certificate| {
            let gateway = state
                .gateway(number)
                .ok_or_else(|| Local::NotFound.status(format!("there is no gateway {number}")))?;
            let mut answer = v1::GetGatewayResponse::new(number, gateway);
            let proof = proofs::state_proof(state, certificate, Table::Gateways, number.0)?;
            answer.proof = Some(proof);
            Ok(Response::new(answer))
        })
    }

    async fn get_leaf(
        &self,
        request: Request<v1::GetLeafRequest>,
    ) -> Result<Response<v1::GetLeafResponse>, Status> {
        let visit = Visit::of(&request, "GetLeaf");
        let request = request.into_inner();
        let table = u8::try_from(request.table).ok();
        let table = Table::ALL
            .into_iter()
            .find(|known| Some(known.id()) == table)
            .ok_or_else(|| Local::BadRequest.status("table: must be 1 to 11"))?;
        let ask = self
            .view
            .with_state(|state, _| ask_of_leaf(state, table, request.number));
        self.gate.pass(&visit, &ask)?;
        let proof = self.proof(table, request.number)?;
        Ok(Response::new(v1::GetLeafResponse { proof: Some(proof) }))
    }

    async fn find_api_key(
        &self,
        request: Request<v1::FindApiKeyRequest>,
    ) -> Result<Response<v1::FindApiKeyResponse>, Status> {
        let visit = Visit::of(&request, "FindApiKey");
        let key = key("key", &request.into_inner().key)?;
        let (number, ask) = self.view.with_state(|state, _| {
            let number = state.api_key_by_public(&key);
            (number, ask_of_key(state, number))
        });
        self.gate.pass(&visit, &ask)?;
        Ok(Response::new(v1::FindApiKeyResponse {
            number: number.map(|number| number.0),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        self.pass(&request, "ListEntries", &ask_of_list(request.get_ref()))?;
        let request = request.into_inner();
        self.reads
            .run(move |view| lists::list(view, &request))
            .await
            .map(Response::new)
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        let visit = Visit::of(&request, "GetReceipt");
        self.gate.pass(&visit, &Ask::AnyReceipt)?;
        let request = request.into_inner();
        let (blocks, gate) = (self.blocks.clone(), self.gate.clone());
        let read = move |view: &V| {
            let index = receipt_index(view, request.by.as_ref())?;
            gate.pass(&visit, &ask_of_receipt(view, index)?)?;
            receipts::receipt(view, &blocks, index)
        };
        self.reads.run(read).await.map(Response::new)
    }

    async fn get_receipts(
        &self,
        request: Request<v1::GetReceiptsRequest>,
    ) -> Result<Response<v1::GetReceiptsResponse>, Status> {
        let visit = Visit::of(&request, "GetReceipts");
        self.gate.pass(&visit, &Ask::AnyReceipt)?;
        let request = request.into_inner();
        let place = self.history_place("too many files are being gathered; ask again later")?;
        let (blocks, gate) = (self.blocks.clone(), self.gate.clone());
        let most = self.history_entries;
        let with_details = !request.without_details;
        let details = with_details.then_some(self.receipt_blocks);
        let read = move |view: &V| {
            let indexes = receipt_indexes(view, request, most)?;
            let asks = asks_of_receipts(view, &indexes)?;
            gate.pass_all(&visit, indexes.len(), &asks)?;
            receipts::together(view, &blocks, &indexes, details)
        };
        self.reads.run_in(place, read).await.map(Response::new)
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        self.pass(&request, "GetHistory", &ask_of_history(request.get_ref()))?;
        let request = request.into_inner();
        let place = self.history_place("too many histories are being gathered; ask again later")?;
        let most = self.history_entries;
        let gather = move |view: &V| histories::history(view, &request, most);
        let gathered = self.reads.run_in(place, gather);
        gathered.await.map(Response::new)
    }

    async fn get_supply(
        &self,
        request: Request<v1::GetSupplyRequest>,
    ) -> Result<Response<v1::GetSupplyResponse>, Status> {
        self.pass(&request, "GetSupply", &Ask::Classes)?;
        self.view.with_state(|state, certificate| {
            let (header, certificate) = proofs::last_certified(state, certificate)?;
            let classes = state.classes().iter().enumerate();
            Ok(Response::new(v1::GetSupplyResponse {
                header: Some(v1::CertifiedHeader::new(header, certificate)),
                classes: classes
                    .map(|(i, class)| v1::ClassInfo::new(ClassNumber(i as u16), class))
                    .collect(),
            }))
        })
    }

    async fn get_consistency(
        &self,
        request: Request<v1::GetConsistencyRequest>,
    ) -> Result<Response<v1::GetConsistencyResponse>, Status> {
        self.pass(&request, "GetConsistency", &Ask::Chain)?;
        let request = request.into_inner();
        let read = move |view: &V| {
            let last = view.with_state(|state, _| state.log().size());
            let new = if request.new == 0 { last } else { request.new };
            if request.old > new || new > last {
                let why = format!("sizes must satisfy old <= new <= {last}");
                return Err(Local::BadRequest.status(why));
            }
            let path = view.consistency(request.old, new).map_err(unreadable)?;
            Ok(v1::GetConsistencyResponse {
                new,
                path: path.unwrap_or_default().iter().map(bytes_of).collect(),
            })
        };
        self.reads.run(read).await.map(Response::new)
    }

    type WatchStream = watch::Blocks;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let visit = Visit::of(&request, "Watch");
        let request = request.into_inner();
        let filter = watch::Filter::from(&request);
        self.gate.pass(&visit, &filter.ask())?;
        let (place, share) = self.watches.take(visit.counted_as())?;
        let last = self.view.with_state(|state, _| state.height());
        let next = match request.from_height {
            0 => Height(last.0 + 1),
            height if height > last.0 + 1 => return Err(no_block(height - 1)),
            height => Height(height),
        };
        let watcher = watch::Watcher {
            view: self.view.clone(),
            gate: self.gate.clone(),
            reads: self.reads.clone(),
            visit,
            filter,
            next,
            lag: self.lag,
            stall: self.stall,
            _place: place,
        };
        Ok(Response::new(watcher.blocks(share)))
    }

    async fn get_unit_totals(
        &self,
        request: Request<v1::GetUnitTotalsRequest>,
    ) -> Result<Response<v1::GetUnitTotalsResponse>, Status> {
        let unit = request.get_ref().unit;
        self.pass(&request, "GetUnitTotals", &Ask::Unit(unit))?;
        let place = self.history_place("too many totals are being summed; ask again later")?;
        let sum = move |view: &V| {
            view.with_state(|state, certificate| units::totals(state, certificate, unit))
        };
        self.reads.run_in(place, sum).await.map(Response::new)
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let visit = Visit::of(&request, "WhoAmI");
        self.gate.pass(&visit, &Ask::Login)?;
        let known = visit.known();
        let answer = self.view.with_state(|state, _| {
            let name = known.map(|known| known.name);
            let person = name.filter(|name| name.kind == AuthorKind::Person);
            let person = person.and_then(|name| state.person(Person(name.number)));
            let roles = person.map_or(Roles::NONE, |person| person.roles).names();
            v1::WhoAmIResponse {
                caller: name.map(|name| name.to_string()).unwrap_or_default(),
                roles: roles.map(str::to_owned).collect(),
                unit: person.and_then(|person| person.unit),
                until: known.map_or(0, |known| known.until.saturating_mul(1_000)),
                chain: bytes_of(&state.chain().0),
            }
        });
        Ok(Response::new(answer))
    }

    async fn list_access(
        &self,
        request: Request<v1::ListAccessRequest>,
    ) -> Result<Response<v1::ListAccessResponse>, Status> {
        self.pass(&request, "ListAccess", &Ask::AccessLog)?;
        let request = request.into_inner();
        let limit = lists::limit(request.limit);
        let log = self.log.clone();
        let read = move |_: &V| {
            let unreadable = |error: std::io::Error| {
                tracing::error!(%error, "the access log cannot be read");
                Local::Unavailable.status("this node cannot read its access log now")
            };
            log.read(request.from, limit).map_err(unreadable)
        };
        let page = self.reads.run(read).await?;
        let record = |record: Record| v1::Access {
            number: record.number,
            time: record.time,
            caller: record.caller,
            address: record.address,
            method: record.method,
            subject: record.subject,
            answer: record.answer,
        };
        Ok(Response::new(v1::ListAccessResponse {
            records: page.records.into_iter().map(record).collect(),
            next: page.next,
            first: page.first,
        }))
    }
}
