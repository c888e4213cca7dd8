//! `tally entry`: the log as people read it: list and follow.

use serde_json::{Map, Value, json};
use tally_ledger::ids::{Amount, Time};
use tally_proto::v1::{self, entry::Fact, list_entries_request::Of};

use super::{
    args::runtime,
    client::{NodeArg, failure},
    clock::show_date,
    exit::Exit,
    output::{self, Format},
};

/// Read the log
#[derive(Debug, clap::Subcommand)]
pub(crate) enum EntryCommand {
    /// List entries of an account, gateway or class, or control entries, as the node says;
    /// `tally history` proves them
    #[command(after_help = "Example:\n  tally entry list --account 3 --limit 20")]
    List(List),
    /// Print every block and its entries as they become final
    #[command(after_help = "Example:\n  tally entry watch --from 1 --control")]
    Watch(Watch),
}

/// Arguments of `entry list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    node: NodeArg,
    /// Entries of this account
    #[arg(long, group = "of")]
    account: Option<u32>,
    /// Entries of this gateway
    #[arg(long, group = "of")]
    gateway: Option<u32>,
    /// Entries of this class
    #[arg(long, group = "of")]
    class: Option<u32>,
    /// Only what is neither receipt nor lease
    #[arg(long, group = "of")]
    control: bool,
    /// First log index
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most entries
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

/// Arguments of `entry watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    node: NodeArg,
    /// First height; 0: the next one
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after this height
    #[arg(long)]
    to: Option<u64>,
    /// Only control entries
    #[arg(long)]
    control: bool,
}

impl EntryCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        runtime()?.block_on(async {
            match self {
                EntryCommand::List(list) => list.run(format).await,
                EntryCommand::Watch(watch) => watch.run(format).await,
            }
        })
    }
}

impl List {
    fn of(&self) -> Of {
        match (self.account, self.gateway, self.class) {
            (Some(account), _, _) => Of::Account(account),
            (_, Some(gateway), _) => Of::Gateway(gateway),
            (_, _, Some(class)) => Of::Class(class),
            _ if self.control => Of::Control(true),
            _ => Of::All(true),
        }
    }

    async fn run(self, format: Format) -> anyhow::Result<Exit> {
        let mut client = self.node.connect().await?;
        let mut rows = Vec::new();
        let mut from = self.from;
        while rows.len() < self.limit as usize {
            let request = v1::ListEntriesRequest {
                of: Some(self.of()),
                from,
                limit: (self.limit as usize - rows.len()).min(1000) as u32,
                ..Default::default()
            };
            let answer = client
                .audit
                .list_entries(request)
                .await
                .map_err(|e| failure(&e))?;
            let answer = answer.into_inner();
            rows.extend(answer.entries.iter().map(row));
            if answer.next == 0 || answer.entries.is_empty() {
                break;
            }
            from = answer.next;
        }
        output::print(format, &rows)?;
        Ok(Exit::Done)
    }
}

impl Watch {
    async fn run(self, format: Format) -> anyhow::Result<Exit> {
        let mut client = self.node.connect().await?;
        let request = v1::WatchRequest {
            from_height: self.from,
            control_only: self.control,
            headers_only: false,
        };
        let stream = client.audit.watch(request).await.map_err(|e| failure(&e))?;
        let mut stream = stream.into_inner();
        let stop = super::stop::signal();
        tokio::pin!(stop);
        loop {
            let message = tokio::select! {
                message = stream.message() => message.map_err(|e| failure(&e))?,
                () = &mut stop => return Ok(Exit::Done),
            };
            let Some(block) = message else {
                return Ok(Exit::Done);
            };
            print_block(format, &block)?;
            let height = height_of(&block);
            if !block.more && self.to.is_some_and(|to| height >= to) {
                return Ok(Exit::Done);
            }
        }
    }
}

/// The height of a watched block.
pub(crate) fn height_of(block: &v1::WatchResponse) -> u64 {
    let header = block
        .header
        .as_ref()
        .and_then(|header| header.header.as_ref());
    header.map_or(0, |header| header.height)
}

/// One line per block and entry; one JSON object per line.
pub(crate) fn print_block(format: Format, block: &v1::WatchResponse) -> anyhow::Result<()> {
    let Some(header) = block
        .header
        .as_ref()
        .and_then(|header| header.header.as_ref())
    else {
        return Ok(());
    };
    let rows: Vec<Value> = block.entries.iter().map(row).collect();
    if format == Format::Json {
        let block = json!({
            "height": header.height,
            "time": show_date(Time(header.time)),
            "proposer": header.proposer,
            "log size": header.log_size,
            "entries": rows,
        });
        return output::write(&format!("{block}\n"));
    }
    let mut text = format!(
        "block {} {} proposer {} entries {}\n",
        header.height,
        show_date(Time(header.time)),
        header.proposer,
        rows.len()
    );
    for row in &rows {
        let fields = row.as_object().into_iter().flatten();
        let fields = fields.filter(|(name, value)| *name != "height" && !value.is_null());
        let fields: Vec<String> = fields
            .map(|(name, value)| format!("{name} {}", output::cell(value)))
            .collect();
        text += &format!("  {}\n", fields.join("  "));
    }
    output::write(&text)
}

/// An entry as a row: what it is, whose, and every number that it carries.
pub(crate) fn row(entry: &v1::Entry) -> Value {
    let mut row = Map::new();
    row.insert("index".into(), entry.index.into());
    row.insert("height".into(), entry.height.into());
    match &entry.fact {
        Some(Fact::Receipt(receipt)) => receipt_fields(&mut row, receipt),
        Some(Fact::Event(event)) => event_fields(&mut row, event),
        None => {}
    }
    row.into()
}

fn receipt_fields(row: &mut Map<String, Value>, receipt: &v1::Receipt) {
    let debit = receipt.debit.unwrap_or_default();
    row.insert("what".into(), "Receipt".into());
    row.insert("account".into(), receipt.account.into());
    row.insert("class".into(), receipt.class.into());
    row.insert(
        "debit".into(),
        format!("{}/{}/{}", debit.gateway, debit.journal, debit.number).into(),
    );
    row.insert("cost".into(), Amount(receipt.cost).to_string().into());
    row.insert("charged".into(), Amount(receipt.charged).to_string().into());
    row.insert("loss".into(), Amount(receipt.loss).to_string().into());
    row.insert("flags".into(), receipt.flag_names.clone().into());
}

fn event_fields(row: &mut Map<String, Value>, event: &v1::Event) {
    let issued = event.issued.as_ref();
    let amount = event.amount.or(issued.map(|grant| grant.amount));
    let fields: [(&str, Option<Value>); 15] = [
        ("account", event.account.map(Value::from)),
        ("gateway", event.gateway.map(Value::from)),
        ("journal", event.journal.map(Value::from)),
        ("lease", event.lease.map(Value::from)),
        (
            "class",
            event
                .class
                .or(issued.map(|grant| grant.class))
                .map(Value::from),
        ),
        ("api key", event.api_key.map(Value::from)),
        (
            "grant",
            event
                .grant
                .or(issued.map(|grant| grant.number))
                .map(Value::from),
        ),
        (
            "amount",
            amount.map(|amount| Amount(amount).to_string().into()),
        ),
        (
            "unreported",
            event
                .unreported
                .map(|amount| Amount(amount).to_string().into()),
        ),
        (
            "vests",
            issued.map(|grant| show_date(Time(grant.vests)).into()),
        ),
        (
            "expires",
            issued.map(|grant| show_date(Time(grant.expires)).into()),
        ),
        ("corrected", event.corrected.map(Value::from)),
        ("person", event.person.map(Value::from)),
        ("table", event.table.map(Value::from)),
        (
            "why",
            (!event.why.is_empty()).then(|| event.why.clone().into()),
        ),
    ];
    row.insert("what".into(), event.name.clone().into());
    for (name, value) in fields {
        if let Some(value) = value {
            row.insert(name.into(), value);
        }
    }
}
