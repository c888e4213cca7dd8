//! Many transactions from a CSV file, so that running the file again, after
//! any crash or doubt, does nothing twice.
//!
//! ```text
//! # valid_until: 2026-02-01T00:00:00Z
//! # signers: person:2
//! ref,account,class,amount,vests,expires
//! 2026-02/0,0,innovation,250,,2026-03-01
//! ```
//!
//! A row's body is a pure function of the row and of these two lines; its id
//! is a hash over both, so the ledger takes each row once. The date is
//! absolute: past it every row is refused and never re-dated, because ids are
//! forgotten then. `ref` names a row; two rows may otherwise be alike. All
//! else that the hash is over is public, so whoever guesses a `ref` can check
//! it against the chain for ever: no names in it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    genesis::Genesis,
    ids::{HOUR_MS, Time},
    transaction::{Author, Body, transaction_id},
};

use super::{
    args::runtime,
    client::Client,
    clock::{now, parse_date, show_date},
    exit::{Exit, Failure},
    output::{self, Format},
    submit::{SignArgs, WaitArgs, submit},
    tx_file::{parse_author, show_author},
};

/// Rows that wait for their block at the same time.
const IN_FLIGHT: usize = 32;
/// Context of the hash that becomes a row's id.
const ID_CONTEXT: &str = "tally v1 csv row id";

/// A CSV file to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BatchArgs {
    /// Run every row of this file; see the example for its form
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Check the file and print what would be submitted
    #[arg(long, requires = "csv")]
    pub(crate) dry_run: bool,
}

/// A file, read and checked as a whole.
#[derive(Debug, PartialEq, Eq)]
struct File {
    valid_until: u32,
    signers: Vec<Author>,
    rows: Vec<(String, [u8; 16], Action)>,
}

/// A row's values, by the name of their column.
pub(crate) struct Row<'a> {
    headers: &'a csv::StringRecord,
    values: &'a csv::StringRecord,
}

impl Row<'_> {
    /// The value of a column; empty if the cell is.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&str> {
        let index = self.headers.iter().position(|header| header == name);
        let index = index.with_context(|| format!("there is no column `{name}`"))?;
        Ok(self.values.get(index).unwrap_or_default())
    }

    /// A column that must not be empty, parsed.
    pub(crate) fn parse<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        let value = self.get(name)?;
        ensure!(!value.is_empty(), "`{name}` is empty");
        parse(value).map_err(|e| anyhow::anyhow!("`{name}`: {e}"))
    }
}

/// Reads a file whose rows become actions by `action`. One bad row refuses
/// the whole file.
fn read(
    text: &str,
    columns: &[&str],
    action: impl Fn(&Row<'_>) -> anyhow::Result<Action>,
) -> anyhow::Result<File> {
    let (valid_until, signers) = preamble(text)?;
    let mut reader = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let headers = reader.headers()?.clone();
    for wanted in ["ref"].iter().chain(columns) {
        ensure!(
            headers.iter().any(|h| h == *wanted),
            "the header line lacks `{wanted}`"
        );
    }
    if let Some(other) = headers.iter().find(|h| *h != "ref" && !columns.contains(h)) {
        bail!(
            "the header line has `{other}`; known are ref,{}",
            columns.join(",")
        );
    }
    let mut rows = Vec::new();
    let mut names = BTreeSet::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = Row {
            headers: &headers,
            values: &record,
        };
        let name = row.parse("ref", |text| Ok::<_, String>(text.to_owned()));
        let name = name.with_context(|| format!("line {line}"))?;
        ensure!(
            names.insert(name.clone()),
            "line {line}: another row has the ref `{name}`"
        );
        let action = action(&row).with_context(|| format!("line {line} ({name})"))?;
        rows.push((
            name,
            row_id(valid_until, &signers, &headers, &record),
            action,
        ));
    }
    ensure!(!rows.is_empty(), "there are no rows");
    Ok(File {
        valid_until,
        signers,
        rows,
    })
}

/// The two comment lines.
fn preamble(text: &str) -> anyhow::Result<(u32, Vec<Author>)> {
    let line = |name: &str, example: &str| {
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.strip_prefix('#')?.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        });
        let values: Vec<String> = values.collect();
        match &values[..] {
            [value] => Ok(value.clone()),
            _ => bail!("the file needs one line `# {name}: {example}`"),
        }
    };
    let date = line("valid_until", "2026-02-01T00:00:00Z")?;
    let time = parse_date(&date)
        .map_err(anyhow::Error::msg)
        .context("valid_until")?;
    ensure!(
        time.0.is_multiple_of(HOUR_MS),
        "valid_until must be a full hour"
    );
    let hour = u32::try_from(time.0 / HOUR_MS).context("valid_until must be within 7 days")?;
    let signers = line("signers", "person:2")?;
    let signers = signers.split(',').map(|name| parse_author(name.trim()));
    let signers: Result<Vec<Author>, String> = signers.collect();
    Ok((
        hour,
        signers.map_err(anyhow::Error::msg).context("signers")?,
    ))
}

fn row_id(
    valid_until: u32,
    signers: &[Author],
    headers: &csv::StringRecord,
    record: &csv::StringRecord,
) -> [u8; 16] {
    let mut cells: Vec<(&str, &str)> = headers.iter().zip(record).collect();
    cells.sort_unstable();
    let signers: Vec<String> = signers.iter().copied().map(show_author).collect();
    let preimage = json!([valid_until, signers, cells]).to_string();
    let hash = blake3::derive_key(ID_CONTEXT, preimage.as_bytes());
    hash[..16].try_into().expect("a hash has 32 bytes")
}

/// Refuses a file that is past its date, or too far before it.
fn check_date(valid_until: u32, now: Time) -> anyhow::Result<()> {
    let date = show_date(Time(u64::from(valid_until) * HOUR_MS));
    if valid_until <= now.hour() {
        let message = format!(
            "the file was valid until {date} and is never re-dated: its rows may have been \
             accepted before. Look up which were (`tally entry list`), and write the others into \
             a new file"
        );
        return Err(Failure::error(Exit::Refused, message));
    }
    ensure!(
        valid_until <= now.hour() + 168,
        "valid_until {date} is more than 7 days ahead"
    );
    Ok(())
}

/// What a row became.
struct Done {
    exit: Exit,
    value: Value,
}

/// Runs a file.
pub(crate) fn run(
    format: Format,
    path: &Path,
    dry_run: bool,
    sign: &SignArgs,
    wait: &WaitArgs,
    columns: &[&str],
    action: impl Fn(&Genesis, &Row<'_>) -> anyhow::Result<Action>,
) -> anyhow::Result<Exit> {
    let at = || format!("CSV file {}", path.display());
    let genesis = sign.genesis.read()?;
    let text = std::fs::read_to_string(path).with_context(at)?;
    let file = read(&text, columns, |row| action(&genesis, row)).with_context(at)?;
    check_date(file.valid_until, now()).with_context(at)?;
    let bodies: Vec<(String, Body)> = bodies(&file);
    if dry_run {
        let rows = bodies.iter().map(|(name, body)| {
            let id = transaction_id(&body.encode());
            json!({"ref": name, "transaction": id, "action": body.action})
        });
        output::print(format, &rows.collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    let signers = sign.read(&genesis)?;
    let signed = bodies.iter().map(|(name, body)| {
        let file = signers.sign(&genesis, body, b"").with_context(at)?;
        Ok((name.clone(), file.transaction().with_context(at)?))
    });
    let signed = signed.collect::<anyhow::Result<Vec<_>>>()?;
    let done = runtime()?.block_on(async {
        let client = wait.node.connect_open().await?;
        let one = |(name, transaction)| one(client.clone(), wait, name, transaction);
        let all = futures::stream::iter(signed).map(one).buffered(IN_FLIGHT);
        anyhow::Ok(all.collect::<Vec<Done>>().await)
    })?;
    let exit = done
        .iter()
        .map(|done| done.exit)
        .max_by_key(|exit| *exit as u8);
    output::print(
        format,
        &done.into_iter().map(|done| done.value).collect::<Vec<_>>(),
    )?;
    Ok(exit.unwrap_or(Exit::Done))
}

fn bodies(file: &File) -> Vec<(String, Body)> {
    let (author, others) = file
        .signers
        .split_first()
        .expect("a list that was split has a part");
    let body = |(name, id, action): &(String, [u8; 16], Action)| {
        (
            name.clone(),
            Body::new(*author, others, *id, file.valid_until, action.clone()),
        )
    };
    file.rows.iter().map(body).collect()
}

/// Submits one row; what fails is told in its line.
async fn one(
    mut client: Client,
    wait: &WaitArgs,
    name: String,
    transaction: tally_ledger::transaction::Transaction,
) -> Done {
    let id = transaction.id();
    match submit(&mut client, transaction, true, wait.timeout).await {
        Ok(submitted) => {
            let mut value = json!({"ref": name, "transaction": id});
            value["outcome"] = submitted.value["outcome"].clone();
            value["height"] = submitted.value["height"].clone();
            let entry = submitted.value["entries"]
                .as_array()
                .and_then(|entries| entries.first());
            for field in ["account", "grant"] {
                if let Some(number) = entry.and_then(|entry| entry.get(field)) {
                    value[field] = number.clone();
                }
            }
            Done {
                exit: submitted.exit,
                value,
            }
        }
        Err(error) => {
            let exit = Failure::code(&error);
            let value = json!({"ref": name, "transaction": id, "outcome": format!("{error:#}")});
            Done { exit, value }
        }
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::ids::AccountNumber;

    use super::*;

    const FILE: &str = "# valid_until: 2026-02-01T00:00:00Z\n# signers: person:2,person:3\n\
        ref,account\na, 7\nb,8\n";

    fn parse(text: &str) -> anyhow::Result<File> {
        read(text, &["account"], |row| {
            Ok(Action::Freeze(AccountNumber(
                row.parse("account", str::parse)?,
            )))
        })
    }

    #[test]
    fn a_rows_body_is_a_function_of_the_row() {
        let file = parse(FILE).unwrap();
        assert_eq!(file, parse(FILE).unwrap());
        let bodies = bodies(&file);
        assert_eq!(bodies[0].1.action, Action::Freeze(AccountNumber(7)));
        assert_ne!(bodies[0].1.id, bodies[1].1.id);
        // Order of rows and columns, spaces and other rows change nothing.
        let moved = FILE.replace("a, 7\nb,8\n", "b,8\na,7\nc,9\n");
        let moved = parse(&moved).unwrap();
        assert_eq!(moved.rows[1], file.rows[0]);
        // The date, the signers and each cell do.
        for (from, to) in [
            ("02-01", "02-02"),
            ("person:3", "person:4"),
            (" 7", "9"),
            ("a,", "x,"),
        ] {
            assert_ne!(
                parse(&FILE.replace(from, to)).unwrap().rows[0].1,
                file.rows[0].1,
                "{from}"
            );
        }
    }

    #[test]
    fn one_bad_row_refuses_the_file() {
        for (from, to, message) in [
            ("b,8", "b,eight", "line 5 (b)"),
            ("b,8", "a,8", "another row has the ref"),
            ("b,8", ",8", "`ref` is empty"),
            ("ref,account", "ref,acount", "lacks `account`"),
            ("# signers: person:2,person:3\n", "", "# signers:"),
            ("T00:00:00Z", "T00:00:01Z", "full hour"),
            ("a, 7\nb,8\n", "", "no rows"),
        ] {
            let error = format!("{:#}", parse(&FILE.replace(from, to)).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn past_its_date_a_file_is_refused_for_good() {
        let hour = parse(FILE).unwrap().valid_until;
        let at = |hour: u32| Time(u64::from(hour) * HOUR_MS);
        assert!(check_date(hour, at(hour - 1)).is_ok());
        assert!(check_date(hour, at(hour - 168)).is_ok());
        assert!(check_date(hour, at(hour - 169)).is_err());
        let error = check_date(hour, at(hour)).unwrap_err();
        assert_eq!(Failure::code(&error), Exit::Refused);
    }
}
