//! Actions: what a body asks for.

use tally_ledger::{
    action::{
        Action, BindApiKey, Correct, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal,
        RegisterGateway, Revoke, SetClass, SetGatewayKey, SetRole, SetUnit, Surrender, reserved,
    },
    evidence::Evidence,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, GrantNumber,
        JournalNumber, LeaseNumber, ModelNumber, Person, Time,
    },
    person::Roles,
};

use super::{FieldError, bytes_of, collect, hash, key, key_bytes, rules, u16_of};
use crate::v1::{self, body::Action as Proto};

fn class(number: u32) -> Result<ClassNumber, FieldError> {
    u16_of("class", number).map(ClassNumber)
}

fn new_grant(from: &v1::NewGrant) -> Result<NewGrant, FieldError> {
    Ok(NewGrant {
        account: AccountNumber(from.account),
        class: class(from.class)?,
        amount: Amount(from.amount),
        vests: Time(from.vests),
        expires: Time(from.expires),
    })
}

fn bind(from: v1::BindApiKey) -> Result<BindApiKey, FieldError> {
    Ok(BindApiKey {
        account: AccountNumber(from.account),
        key: key("key", &from.key)?,
        models: collect("models", &from.models, |model| Ok(ModelNumber(*model)))?,
        cap: rules::cap(from.cap),
        expires: Time(from.expires.unwrap_or(u64::MAX)),
    })
}

fn lease(from: v1::Lease) -> Result<Lease, FieldError> {
    Ok(Lease {
        journal: JournalNumber(from.journal),
        number: LeaseNumber(from.number),
        account: AccountNumber(from.account),
        class: class(from.class)?,
        api_key: ApiKeyNumber(from.api_key),
        wanted: Amount(from.wanted),
        worst_case: Amount(from.worst_case),
        duration_ms: from.duration_ms,
    })
}

fn set_gateway_key(from: v1::SetGatewayKey) -> Result<SetGatewayKey, FieldError> {
    Ok(SetGatewayKey {
        gateway: GatewayNumber(from.gateway),
        key: key("key", &from.key)?,
        caps: from.caps.unwrap_or_default().into(),
    })
}

/// What issuers and holders ask for, or gateways, or admins.
pub(super) fn from_proto(from: Proto) -> Result<Action, FieldError> {
    Ok(match from {
        Proto::OpenAccount(from) => Action::OpenAccount(OpenAccount {
            unit: from.unit,
            holder: key("holder", &from.holder)?,
            classes: collect("classes", &from.classes, |number| class(*number))?,
        }),
        Proto::Issue(from) => Action::Issue(Issue {
            grants: collect("grants", &from.grants, new_grant)?,
        }),
        Proto::Revoke(from) => Action::Revoke(Revoke {
            account: AccountNumber(from.account),
            grant: GrantNumber(from.grant),
        }),
        Proto::Correct(from) => Action::Correct(Correct {
            entry: from.entry,
            amount: Amount(from.amount),
            expires: Time(from.expires),
        }),
        Proto::Freeze(account) => Action::Freeze(AccountNumber(account)),
        Proto::Unfreeze(account) => Action::Unfreeze(AccountNumber(account)),
        Proto::BindApiKey(from) => Action::BindApiKey(bind(from)?),
        Proto::RevokeApiKey(number) => Action::RevokeApiKey(ApiKeyNumber(number)),
        Proto::RotateHolderKey(from) => {
            Action::RotateHolderKey(AccountNumber(from.account), key("key", &from.key)?)
        }
        Proto::Surrender(from) => Action::Surrender(Surrender {
            account: AccountNumber(from.account),
            grant: GrantNumber(from.grant),
            amount: Amount(from.amount),
        }),
        Proto::OpenJournal(from) => Action::OpenJournal(OpenJournal {
            journal: JournalNumber(from.journal),
            previous_intact: from.previous_intact,
        }),
        Proto::Lease(from) => Action::Lease(lease(from)?),
        Proto::ReturnLease(number) => Action::ReturnLease(LeaseNumber(number)),
        Proto::Debits(from) => Action::Debits(Debits {
            journal: JournalNumber(from.journal),
            first: DebitNumber(from.first),
            count: from.count,
            root: hash("root", &from.root)?,
        }),
        Proto::SetRole(from) => Action::SetRole(SetRole {
            person: Person(from.person),
            key: key("key", &from.key)?,
            roles: Roles(u16_of("roles", from.roles)?),
        }),
        Proto::SetClass(from) => Action::SetClass(SetClass {
            class: class(from.class)?,
            rules: from.rules.ok_or(FieldError::missing("rules"))?.try_into()?,
        }),
        Proto::SetPriceTable(from) => Action::SetPriceTable(from.try_into()?),
        Proto::SetParameters(from) => Action::SetParameters(from.into()),
        Proto::RegisterGateway(from) => Action::RegisterGateway(RegisterGateway {
            key: key("key", &from.key)?,
            caps: from.caps.unwrap_or_default().into(),
        }),
        Proto::SetGatewayKey(from) => Action::SetGatewayKey(set_gateway_key(from)?),
        Proto::SuspendGateway(number) => Action::SuspendGateway(GatewayNumber(number)),
        Proto::SetRates(from) => Action::SetRates(from.try_into()?),
        Proto::Erase(account) => Action::Erase(AccountNumber(account)),
        Proto::Evidence(from) => {
            let evidence = Evidence::decode(&from);
            let evidence = evidence.map_err(|e| FieldError::new("evidence", e.to_string()))?;
            Action::Evidence(Box::new(evidence))
        }
        Proto::SetUnit(from) => Action::SetUnit(SetUnit {
            person: Person(from.person),
            unit: from.unit,
        }),
    })
}

/// The other way round.
pub(super) fn to_proto(from: &Action) -> Proto {
    match from {
        Action::OpenAccount(from) => Proto::OpenAccount(v1::OpenAccount {
            unit: from.unit,
            holder: key_bytes(&from.holder),
            classes: from.classes.iter().map(|class| class.0.into()).collect(),
        }),
        Action::Issue(from) => Proto::Issue(v1::Issue {
            grants: from.grants.iter().map(grant_to_proto).collect(),
        }),
        Action::Revoke(from) => Proto::Revoke(v1::Revoke {
            account: from.account.0,
            grant: from.grant.0,
        }),
        Action::Correct(from) => Proto::Correct(v1::Correct {
            entry: from.entry,
            amount: from.amount.0,
            expires: from.expires.0,
        }),
        Action::Freeze(account) => Proto::Freeze(account.0),
        Action::Unfreeze(account) => Proto::Unfreeze(account.0),
        Action::BindApiKey(from) => Proto::BindApiKey(v1::BindApiKey {
            account: from.account.0,
            key: key_bytes(&from.key),
            models: from.models.iter().map(|model| model.0).collect(),
            cap: rules::uncap(from.cap),
            expires: (from.expires.0 != u64::MAX).then_some(from.expires.0),
        }),
        Action::RevokeApiKey(number) => Proto::RevokeApiKey(number.0),
        Action::RotateHolderKey(account, key) => Proto::RotateHolderKey(v1::RotateHolderKey {
            account: account.0,
            key: key_bytes(key),
        }),
        Action::Surrender(from) => Proto::Surrender(v1::Surrender {
            account: from.account.0,
            grant: from.grant.0,
            amount: from.amount.0,
        }),
        Action::OpenJournal(from) => Proto::OpenJournal(v1::OpenJournal {
            journal: from.journal.0,
            previous_intact: from.previous_intact,
        }),
        Action::Lease(from) => Proto::Lease(lease_to_proto(from)),
        Action::ReturnLease(number) => Proto::ReturnLease(number.0),
        Action::Debits(from) => Proto::Debits(v1::Debits {
            journal: from.journal.0,
            first: from.first.0,
            count: from.count,
            root: bytes_of(&from.root),
        }),
        Action::SetRole(from) => Proto::SetRole(v1::SetRole {
            person: from.person.0,
            key: key_bytes(&from.key),
            roles: from.roles.0.into(),
        }),
        Action::SetClass(from) => Proto::SetClass(v1::SetClass {
            class: from.class.0.into(),
            rules: Some((&from.rules).into()),
        }),
        Action::SetPriceTable(from) => Proto::SetPriceTable(from.into()),
        Action::SetParameters(from) => Proto::SetParameters((*from).into()),
        Action::RegisterGateway(from) => Proto::RegisterGateway(v1::RegisterGateway {
            key: key_bytes(&from.key),
            caps: Some(from.caps.into()),
        }),
        Action::SetGatewayKey(from) => Proto::SetGatewayKey(v1::SetGatewayKey {
            gateway: from.gateway.0,
            key: key_bytes(&from.key),
            caps: Some(from.caps.into()),
        }),
        Action::SuspendGateway(number) => Proto::SuspendGateway(number.0),
        Action::SetRates(from) => Proto::SetRates(from.into()),
        Action::Erase(account) => Proto::Erase(account.0),
        Action::Evidence(from) => Proto::Evidence(from.encode().into()),
        Action::SetUnit(from) => Proto::SetUnit(v1::SetUnit {
            person: from.person.0,
            unit: from.unit,
        }),
        reserved!(never) => match *never {},
    }
}

fn grant_to_proto(from: &NewGrant) -> v1::NewGrant {
    v1::NewGrant {
        account: from.account.0,
        class: from.class.0.into(),
        amount: from.amount.0,
        vests: from.vests.0,
        expires: from.expires.0,
    }
}

fn lease_to_proto(from: &Lease) -> v1::Lease {
    v1::Lease {
        journal: from.journal.0,
        number: from.number.0,
        account: from.account.0,
        class: from.class.0.into(),
        api_key: from.api_key.0,
        wanted: from.wanted.0,
        worst_case: from.worst_case.0,
        duration_ms: from.duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{
        class::{Burn, ClassRules},
        codec::List,
        crypto::{PublicKey, Signature},
        evidence::{Place, SignedVote, Vote},
        gateway::Caps,
        hash::Hash,
        ids::{Height, TableVersion},
        parameters::Parameters,
        price::{Meter, Model, PriceTable},
        rates::{ClassRate, Rate, Rates},
        transaction::{Author, Body},
    };

    use super::*;

    fn caps() -> Caps {
        Caps {
            open: Amount(1),
            open_account: Amount(u64::MAX),
            hour: Amount(3),
            hour_account: Amount(0),
        }
    }

    fn prices() -> PriceTable {
        let meter = |name: &str, subset_of| Meter {
            name: name.into(),
            coefficient: 5,
            subset_of,
        };
        let model = Model {
            number: ModelNumber(1),
            name: "m".into(),
            meters: List::new(vec![meter("input", None), meter("cached", Some(0))]).unwrap(),
            weight: 7,
            weight_coefficient: 8,
        };
        PriceTable {
            version: TableVersion(2),
            models: List::new(vec![model]).unwrap(),
        }
    }

    fn rules() -> ClassRules {
        ClassRules {
            name: "bio".into(),
            models: List::new(vec![ModelNumber(3)]).unwrap(),
            max_fee: Amount(4),
            burn: Burn::Both,
            supply_cap: Amount(u64::MAX),
            period_days: 30,
        }
    }

    fn rates() -> Rates {
        let rate = Rate {
            requests: 60,
            ..Rate::NONE
        };
        let class = ClassRate {
            class: ClassNumber(1),
            rate,
        };
        Rates {
            fee_unit: Amount(7),
            key: rate,
            account: Rate::NONE,
            classes: List::new(vec![class]).unwrap(),
        }
    }

    fn evidence() -> Evidence {
        let place = Place {
            validator: 1,
            height: Height(2),
            round: 3,
        };
        let vote = |block| SignedVote {
            block,
            signature: Signature([4; 64]),
        };
        let pair = [vote(Some(Hash([5; 32]))), vote(None)];
        Evidence::of_votes(place, Vote::Prevote, pair).unwrap()
    }

    fn actions() -> Vec<Action> {
        let (account, gateway, key) = (AccountNumber(1), GatewayNumber(2), PublicKey([3; 32]));
        let grant = NewGrant {
            account,
            class: ClassNumber(2),
            amount: Amount(3),
            vests: Time(4),
            expires: Time(5),
        };
        let bind = |cap, expires| BindApiKey {
            account,
            key,
            models: List::new(vec![ModelNumber(4), ModelNumber(9)]).unwrap(),
            cap: Amount(cap),
            expires: Time(expires),
        };
        vec![
            Action::OpenAccount(OpenAccount {
                unit: 7,
                holder: key,
                classes: List::new(vec![ClassNumber(1), ClassNumber(0)]).unwrap(),
            }),
            Action::Issue(Issue {
                grants: List::new(vec![grant; 3]).unwrap(),
            }),
            Action::Revoke(Revoke {
                account,
                grant: GrantNumber(2),
            }),
            Action::Correct(Correct {
                entry: 9,
                amount: Amount(1),
                expires: Time(8),
            }),
            Action::Freeze(account),
            Action::Unfreeze(account),
            Action::BindApiKey(bind(u64::MAX, u64::MAX)),
            Action::BindApiKey(bind(0, 77)),
            Action::RevokeApiKey(ApiKeyNumber(5)),
            Action::RotateHolderKey(account, key),
            Action::Surrender(Surrender {
                account,
                grant: GrantNumber(1),
                amount: Amount(2),
            }),
            Action::OpenJournal(OpenJournal {
                journal: JournalNumber(1),
                previous_intact: true,
            }),
            Action::Lease(Lease {
                journal: JournalNumber(1),
                number: LeaseNumber(2),
                account,
                class: ClassNumber(3),
                api_key: ApiKeyNumber(4),
                wanted: Amount(5),
                worst_case: Amount(6),
                duration_ms: 7,
            }),
            Action::ReturnLease(LeaseNumber(8)),
            Action::Debits(Debits {
                journal: JournalNumber(1),
                first: DebitNumber(2),
                count: 3,
                root: Hash([4; 32]),
            }),
            Action::SetRole(SetRole {
                person: Person(1),
                key,
                roles: Roles::ADMIN,
            }),
            Action::SetClass(SetClass {
                class: ClassNumber(2),
                rules: rules(),
            }),
            Action::SetPriceTable(prices()),
            Action::SetParameters(Parameters::default()),
            Action::RegisterGateway(RegisterGateway { key, caps: caps() }),
            Action::SetGatewayKey(SetGatewayKey {
                gateway,
                key,
                caps: caps(),
            }),
            Action::SuspendGateway(gateway),
            Action::SetRates(rates()),
            Action::Erase(account),
            Action::Evidence(Box::new(evidence())),
            Action::SetUnit(SetUnit {
                person: Person(3),
                unit: Some(7),
            }),
            Action::SetUnit(SetUnit {
                person: Person(3),
                unit: None,
            }),
        ]
    }

    #[test]
    fn every_action_comes_back_as_it_was() {
        for action in actions() {
            let author = Author::from(Person(2));
            let others = [Author::from(ApiKeyNumber(4)), Author::from(Person(1))];
            let body = Body::new(author, &others, [9; 16], 11, action);
            let proto = v1::Body::from(&body);
            assert_eq!(Body::try_from(proto), Ok(body));
        }
    }

    #[test]
    fn what_is_missing_or_too_large_is_named() {
        let body = Body::new(
            Person(0).into(),
            &[],
            [1; 16],
            1,
            Action::Freeze(AccountNumber(0)),
        );
        let good = v1::Body::from(&body);
        let field = |body: v1::Body| Body::try_from(body).unwrap_err().field;
        assert_eq!(
            field(v1::Body {
                author: None,
                ..good.clone()
            }),
            "author"
        );
        assert_eq!(
            field(v1::Body {
                action: None,
                ..good.clone()
            }),
            "action"
        );
        assert_eq!(
            field(v1::Body {
                id: vec![1; 15].into(),
                ..good.clone()
            }),
            "id"
        );
        let others = vec![Author::from(Person(1)).into(); 16];
        assert_eq!(
            field(v1::Body {
                others,
                ..good.clone()
            }),
            "others"
        );
        let grants = vec![v1::NewGrant::default(); 257];
        let action = Some(Proto::Issue(v1::Issue { grants }));
        assert_eq!(
            field(v1::Body {
                action,
                ..good.clone()
            }),
            "grants"
        );
        let grants = vec![v1::NewGrant {
            class: 65_536,
            ..Default::default()
        }];
        let action = Some(Proto::Issue(v1::Issue { grants }));
        assert_eq!(
            field(v1::Body {
                action,
                ..good.clone()
            }),
            "class"
        );
        let action = Some(Proto::Evidence(vec![9; 20].into()));
        assert_eq!(field(v1::Body { action, ..good }), "evidence");
    }
}
