//! Who may do what: signers, ids, roles.

use tally_ledger::{
    action::Action,
    ids::HOUR_MS,
    person::Roles,
    reason::Reason,
    transaction::{Author, AuthorKind},
};

use super::{Oracle, Request};

/// Hours of block time that an id may stay alive.
const MAX_HOURS_AHEAD: u64 = 168;

impl Oracle {
    /// The author first, then ascending without repeats, all known, all
    /// signatures good.
    pub(super) fn signature_faults(&self, request: &Request) -> Vec<Reason> {
        let mut faults = Vec::new();
        let listed = match request.signers.split_first() {
            Some((first, rest)) => {
                *first == request.author
                    && !rest.contains(first)
                    && rest.windows(2).all(|pair| pair[0] < pair[1])
            }
            None => false,
        };
        if !listed {
            faults.push(Reason::SignerList);
        }
        if !request.counted {
            faults.push(Reason::SignatureCount);
        }
        if !request.signers.iter().all(|signer| self.exists(*signer)) {
            faults.push(Reason::UnknownSigner);
        } else if !request.signed {
            faults.push(Reason::BadSignature);
        }
        faults
    }

    fn exists(&self, author: Author) -> bool {
        match author.kind {
            AuthorKind::Person => self.persons.contains_key(&author.number),
            AuthorKind::Gateway => self.gateways.contains_key(&author.number),
            AuthorKind::Account => self.accounts.contains_key(&author.number),
            AuthorKind::ApiKey => self.api_keys.contains_key(&author.number),
            AuthorKind::Validator => author.number < self.validators,
        }
    }

    /// Gateways need no id; all others use one once while it lives.
    pub(super) fn id_faults(&self, request: &Request) -> Vec<Reason> {
        let (id, until) = (request.id, u64::from(request.valid_until));
        if request.author.kind == AuthorKind::Gateway {
            return match id == [0; 16] && until == 0 {
                true => Vec::new(),
                false => vec![Reason::IdForbidden],
            };
        }
        if id == [0; 16] || until == 0 {
            return vec![Reason::IdRequired];
        }
        let mut faults = Vec::new();
        if self.time >= until * HOUR_MS {
            faults.push(Reason::Expired);
        }
        if until > self.time / HOUR_MS + MAX_HOURS_AHEAD {
            faults.push(Reason::TooFarAhead);
        }
        match self.ids.get(&(request.author, id)) {
            Some((_, used)) if *used == request.transaction => faults.push(Reason::Duplicate),
            Some(_) => faults.push(Reason::IdTaken),
            None => {}
        }
        faults
    }

    /// Remembers the id of an accepted transaction.
    pub(super) fn remember(&mut self, request: &Request) {
        if request.author.kind != AuthorKind::Gateway {
            let key = (request.author, request.id);
            let until = request.valid_until;
            self.ids.insert(key, (until, request.transaction));
        }
    }

    /// Signers who are persons with a role.
    pub(super) fn signers_with(&self, request: &Request, role: Roles) -> usize {
        let has = |author: &&Author| {
            author.kind == AuthorKind::Person
                && (self.persons.get(&author.number)).is_some_and(|p| p.roles.has(role))
        };
        request.signers.iter().filter(has).count()
    }

    /// Whether the signers suffice for the action.
    pub(super) fn authority_faults(&self, request: &Request) -> Vec<Reason> {
        let author = request.author;
        if !self.exists(author) {
            return Vec::new();
        }
        match &request.action {
            Action::OpenAccount(_) | Action::Freeze(_) | Action::Issue(_) | Action::Revoke(_) => {
                self.issuer_faults(request, 1)
            }
            Action::Correct(_) | Action::Unfreeze(_) => self.issuer_faults(request, 2),
            Action::Erase(account) => match self.holder_faults(request, account.0, 2) {
                faults if !faults.is_empty() || author.kind == AuthorKind::Person => faults,
                _ if self.signers_with(request, Roles::ISSUER) > 0 => Vec::new(),
                _ => vec![Reason::CheckerMissing],
            },
            Action::BindApiKey(bind) => self.holder_faults(request, bind.account.0, 2),
            Action::RotateHolderKey(account, _) => self.holder_faults(request, account.0, 2),
            Action::RevokeApiKey(key) => match (author.kind, self.api_keys.get(&key.0)) {
                (AuthorKind::ApiKey, Some(_)) if author.number == key.0 => Vec::new(),
                (AuthorKind::ApiKey, _) => vec![Reason::NotYours],
                (AuthorKind::Account, None) => Vec::new(),
                (_, Some(found)) => self.holder_faults(request, found.account, 1),
                (_, None) => self.issuer_faults(request, 1),
            },
            Action::Surrender(surrender) => match author.kind {
                AuthorKind::Account if author.number == surrender.account.0 => Vec::new(),
                AuthorKind::Account => vec![Reason::NotYours],
                _ => vec![Reason::WrongAuthor],
            },
            Action::OpenJournal(_) | Action::ReturnLease(_) | Action::Debits(_) => {
                only_gateway(author)
            }
            Action::Lease(lease) => {
                let mut faults = only_gateway(author);
                let consents = |signer: &Author| {
                    signer.kind == AuthorKind::ApiKey && signer.number == lease.api_key.0
                };
                if !request.signers.iter().any(consents) {
                    faults.push(Reason::NotYours);
                }
                faults
            }
            Action::SuspendGateway(_) => self.admin_faults(request, 1),
            // It proves itself, whoever tells.
            Action::Evidence(_) => Vec::new(),
            _ => self.admin_faults(request, self.parameters.threshold as usize),
        }
    }

    fn issuer_faults(&self, request: &Request, needed: usize) -> Vec<Reason> {
        let author = request.author;
        if author.kind != AuthorKind::Person {
            return vec![Reason::WrongAuthor];
        }
        if !self.persons[&author.number].roles.has(Roles::ISSUER) {
            return vec![Reason::RoleMissing];
        }
        match self.signers_with(request, Roles::ISSUER) >= needed {
            true => Vec::new(),
            false => vec![Reason::CheckerMissing],
        }
    }

    fn admin_faults(&self, request: &Request, needed: usize) -> Vec<Reason> {
        let author = request.author;
        if author.kind != AuthorKind::Person {
            return vec![Reason::WrongAuthor];
        }
        if !self.persons[&author.number].roles.has(Roles::ADMIN) {
            return vec![Reason::RoleMissing];
        }
        match self.signers_with(request, Roles::ADMIN) >= needed {
            true => Vec::new(),
            false => vec![Reason::ThresholdMissing],
        }
    }

    /// The account's holder, or so many issuers.
    fn holder_faults(&self, request: &Request, account: u32, issuers: usize) -> Vec<Reason> {
        match request.author.kind {
            AuthorKind::Account if request.author.number == account => Vec::new(),
            AuthorKind::Account => vec![Reason::NotYours],
            AuthorKind::Person => self.issuer_faults(request, issuers),
            _ => vec![Reason::WrongAuthor],
        }
    }
}

fn only_gateway(author: Author) -> Vec<Reason> {
    match author.kind {
        AuthorKind::Gateway => Vec::new(),
        _ => vec![Reason::WrongAuthor],
    }
}
