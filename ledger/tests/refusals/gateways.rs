//! Refusals 90 to 104: journals, leases, debits.

use tally_ledger::{
    action::{Action, Lease, OpenJournal, RegisterGateway},
    debit::Flags,
    ids::*,
    price::{MAX_FEE, Usage},
    reason::Reason,
};

use crate::{rows::*, world::*};

pub(crate) const GATEWAYS: &[Row] = &[
    (
        "lease before a journal",
        Reason::JournalNotCurrent,
        |world| {
            let (key, caps) = (key(GatewayNumber(2)).public(), caps(1));
            let register = Action::RegisterGateway(RegisterGateway { key, caps });
            let register = world.by_admins(register);
            world.run(register);
            let lease = world.next_lease(GatewayNumber(2));
            world.lease_tx(GatewayNumber(2), lease)
        },
    ),
    (
        "debits of a fenced journal",
        Reason::JournalNotCurrent,
        |world| {
            let transaction = one_debit(world, |_| ());
            world.open_journal(G0, true);
            transaction
        },
    ),
    (
        "lease of a journal to come",
        Reason::JournalAhead,
        |world| {
            let journal = JournalNumber(2);
            let lease = world.next_lease(G0);
            world.lease_tx(G0, Lease { journal, ..lease })
        },
    ),
    ("the same journal", Reason::JournalNotNext, |world| {
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        });
        world.tx(G0, &[], action)
    }),
    ("the same lease", Reason::LeaseNotNext, |world| {
        let lease = world.next_lease(G0);
        let transaction = world.lease_tx(G0, lease);
        world.run(transaction.clone());
        transaction
    }),
    ("another's lease", Reason::LeaseAhead, |world| {
        let lease = with_lease(world);
        world.tx(G1, &[], Action::ReturnLease(lease))
    }),
    ("returned twice", Reason::LeaseNotOpen, |world| {
        let lease = with_lease(world);
        world.return_lease(G0, lease);
        world.tx(G0, &[], Action::ReturnLease(lease))
    }),
    ("a lease to come", Reason::LeaseAhead, |world| {
        one_debit(world, |debit| debit.fixed.lease.0 += 1)
    }),
    ("another class", Reason::LeaseMismatch, |world| {
        one_debit(world, |debit| debit.fixed.class = PRIORITY)
    }),
    ("another API key", Reason::LeaseMismatch, |world| {
        let other = world.bind(0);
        one_debit(world, |debit| debit.fixed.api_key = other)
    }),
    ("another account", Reason::LeaseMismatch, |world| {
        let other = AccountNumber(world.open_account());
        one_debit(world, |debit| debit.fixed.account = other)
    }),
    ("the same batch", Reason::DebitNotNext, |world| {
        let transaction = one_debit(world, |_| ());
        world.run(transaction.clone());
        transaction
    }),
    ("an exchanged debit", Reason::DebitRoot, |world| {
        let mut transaction = one_debit(world, |_| ());
        transaction.payload[60] ^= 1;
        transaction
    }),
    ("kind 2", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.kind = 2)
    }),
    ("version 3", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.version = 3)
    }),
    (
        "version 1 of the second's length",
        Reason::DebitCount,
        |world| one_debit(world, |debit| debit.fixed.version = 1),
    ),
    (
        "version 2 of the first's length",
        Reason::DebitCount,
        |world| one_debit(world, |debit| debit.detail.queued = None),
    ),
    ("two versions in a batch", Reason::DebitCount, |world| {
        let lease = with_lease(world);
        let debit = debit(lease, 1);
        world.debits_tx(G0, &[debit, first_version(debit)])
    }),
    ("version 1 within version 2", Reason::DebitForm, |world| {
        let lease = with_lease(world);
        let (good, mut bad) = (debit(lease, 1), debit(lease, 1));
        bad.fixed.version = 1;
        world.debits_tx(G0, &[good, bad])
    }),
    ("the ledger's flag", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.flags = Flags::LATE)
    }),
    ("a count without meter", Reason::UsageForm, |world| {
        one_debit(world, |debit| {
            debit.detail.usage = Usage([1, 0, 0, 0, 0, 1]);
        })
    }),
    ("a subset above its whole", Reason::UsageForm, |world| {
        one_debit(world, |debit| {
            debit.detail.usage = Usage([1, 2, 0, 0, 0, 0]);
        })
    }),
    ("a fee of 2^62", Reason::UsageForm, |world| {
        one_debit(world, |debit| debit.fixed.fee = Amount(MAX_FEE))
    }),
    (
        "suspended, all closed",
        Reason::SuspendedAndClosed,
        |world| {
            let transaction = one_debit(world, |_| ());
            let suspend = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
            world.run(suspend);
            world.return_lease(G0, LeaseNumber(1));
            transaction
        },
    ),
    ("journal 1 lost", Reason::PreviousJournalIntact, |world| {
        *world = World::of(genesis());
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: false,
        });
        world.tx(G0, &[], action)
    }),
];
