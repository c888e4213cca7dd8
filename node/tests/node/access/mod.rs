//! Who may ask a node what: logins, roles, and the log of who asked.

mod error;
mod record;
mod stream;
mod table;
mod token;

use tally_ledger::{
    action::{Action, OpenAccount, RegisterGateway, SetRole, SetUnit},
    ids::{AccountNumber, ClassNumber, GatewayNumber, Person},
    person::Roles,
    transaction::{Author, Transaction},
};
use tally_node::{Engine, config::LoginOf};
use tally_proto::{Login, v1};
use tonic::{Request, Status};

use crate::net::{Audit, CT, GATEWAY, ISSUER, Net, Running, caps, key, list};

const SOLO: Engine = Engine::Solo;
const ADMINS: [Person; 2] = [Person(2), Person(3)];
const OWNER: Person = Person(4);
const AUDITOR: Person = Person(5);
const MANAGER: Person = Person(6);
const OTHER_MANAGER: Person = Person(7);
const RETIRED: Person = Person(8);
const OTHER_GATEWAY: GatewayNumber = GatewayNumber(1);

fn by_admins(net: &Net, id: u8, action: Action) -> Transaction {
    net.sign(id, &ADMINS.map(Author::from), action)
}

fn set_role(person: Person, roles: Roles) -> Action {
    Action::SetRole(SetRole {
        person,
        key: key(person).public(),
        roles,
    })
}

fn login(net: &Net, who: impl Into<Author>) -> Login {
    let who = who.into();
    Login::new(who, key(who), net.chain())
}

/// A node that demands logins of everybody, on a chain with an auditor, two
/// unit managers, a retired person, three accounts, and two gateways. Account
/// 0 has a key and has spent through gateway 0, account 1 has a key, account
/// 2 has none; 0 and 1 are of unit 7, 2 is of unit 9.
async fn peopled(net: &Net) -> Running {
    net.configure(0, |config| config.rpc.login = LoginOf::All);
    let node = net.start(0, SOLO).await;
    let roles = [
        (AUDITOR, Roles::AUDITOR),
        (MANAGER, Roles::UNIT_MANAGER),
        (OTHER_MANAGER, Roles::UNIT_MANAGER),
        (RETIRED, Roles::NONE),
    ];
    let mut actions: Vec<Action> = roles.map(|(who, roles)| set_role(who, roles)).into();
    for (person, unit) in [(MANAGER, Some(7)), (OTHER_MANAGER, Some(8))] {
        actions.push(Action::SetUnit(SetUnit { person, unit }));
    }
    let (key_of_other, caps) = (key(OTHER_GATEWAY).public(), caps());
    actions.push(Action::RegisterGateway(RegisterGateway {
        key: key_of_other,
        caps,
    }));
    for (id, action) in (1..).zip(actions) {
        node.finalise(by_admins(net, id, action)).await;
    }
    for account in 0..3 {
        let open = OpenAccount {
            unit: if account < 2 { 7 } else { 9 },
            holder: key(AccountNumber(account)).public(),
            classes: list(vec![ClassNumber(0)]),
        };
        let (id, action) = (account as u8 + 1, Action::OpenAccount(open));
        node.finalise(net.sign(id, &[ISSUER.into()], action)).await;
        let amount = u64::from(account + 1) * 100 * CT;
        node.finalise(net.issue(account, amount)).await;
    }
    node.finalise(net.bind(0)).await;
    node.finalise(net.bind(1)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 10 * CT)).await;
    node.finalise(net.debits(1, 3, 1, 0, 1000)).await;
    node
}

/// What a question is answered when it comes with this header.
async fn with_header(audit: &Audit, value: &str) -> Status {
    let mut request = Request::new(v1::GetAccountRequest { account: 0 });
    let value = value.parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    audit.clone().get_account(request).await.unwrap_err()
}
