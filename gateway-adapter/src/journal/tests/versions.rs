//! Debits of the first version in a journal: read and sent as they are.

use super::*;

/// A Debit record of the build before version 2 of debits, byte by byte: the
/// golden record of version 1 in its frame.
fn first_version_record(number: u64, record: &str) -> Vec<u8> {
    let record = hex::decode(record).unwrap();
    let mut body = 7u32.to_le_bytes().to_vec();
    body.extend(number.to_le_bytes());
    body.extend((record.len() as u64).to_le_bytes());
    body.extend(record);
    let mut framed = (body.len() as u32).to_le_bytes().to_vec();
    framed.extend(crc32c::crc32c(&body).to_le_bytes());
    framed.extend(body);
    framed
}

#[test]
fn debits_of_the_first_version_are_read_and_sent_in_their_own_batches() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../ledger/vectors/debits.json");
    let vectors = std::fs::read_to_string(vectors).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
    let text = |i: usize, what: &str| vectors["records"][i][what].as_str().unwrap().to_owned();
    let fake = Fake::default();
    let start = SegmentHead {
        gateway: GatewayNumber(0),
        ..base(1, true)
    };
    let mut store = fake.clone();
    begin(&mut store, State::new(start)).unwrap();
    for i in 0..3u64 {
        let mut held = hold();
        held.id = HoldId {
            journal: JournalNumber(1),
            number: i + 1,
        };
        let mut bytes = Vec::new();
        Record::HoldMade(Box::new(held)).frame(&mut bytes);
        bytes.extend(first_version_record(i + 1, &text(i as usize, "record")));
        store.append(&bytes).unwrap();
    }
    store.sync().unwrap();
    let found = contents(&fake);
    let hashes = found.unproven.iter().map(|debit| debit.hash.to_string());
    let golden: Vec<_> = (0..3).map(|i| text(i, "running_hash")).collect();
    assert_eq!(hashes.collect::<Vec<_>>(), golden);

    // Two more of version 2, and batches that do not mix.
    let journal = Journal::resume(Box::new(store), found, Limits::default());
    for _ in 0..2 {
        let mut record = hold();
        drop(journal.hold(&mut record, Urgency::Soon));
        let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
        wait(journal.debit(&debit).unwrap().1).unwrap();
    }
    let numbers = |after| -> Vec<u64> {
        let batch = journal.unproven_after(DebitNumber(after), 100);
        batch.iter().map(|debit| debit.number.0).collect()
    };
    assert_eq!(numbers(0), [1, 2, 3]);
    assert_eq!(numbers(1), [2, 3]);
    assert_eq!(numbers(3), [4, 5]);
    assert_eq!(numbers(5), [0u64; 0]);
    // They stay as they are, in new segments and after another start.
    let again = contents(&fake.crashed());
    let lengths = again
        .unproven
        .iter()
        .map(|debit| debit.debit.as_bytes().len());
    assert_eq!(lengths.collect::<Vec<_>>(), [150, 150, 150, 166, 166]);
    assert_eq!(
        hex::encode(again.unproven[0].debit.as_bytes()),
        text(0, "record")
    );
}

#[test]
fn a_debit_of_no_version_is_damage() {
    for (version, length) in [(0u8, 150usize), (1, 166), (2, 150), (3, 166), (1, 149)] {
        let mut record = vec![0; length];
        record[0] = version;
        let framed = first_version_record(1, &hex::encode(record));
        assert_eq!(Record::read(&framed), None, "{version} of {length}");
    }
}
