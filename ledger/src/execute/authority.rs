//! Who may do what; the table is in [`crate::action`].

use super::{Call, Draft};
use crate::{
    ids::{AccountNumber, GatewayNumber, Person},
    person::Roles,
    reason::Reason,
    transaction::{Author, AuthorKind},
};

impl Draft<'_> {
    fn has_role(&self, author: Author, role: Roles) -> bool {
        let person = self.person(Person(author.number));
        author.kind == AuthorKind::Person && person.is_some_and(|person| person.roles.has(role))
    }

    /// How many signers have a role; the author must be one of them.
    fn signers_with(&self, call: &Call<'_>, role: Roles) -> Result<usize, Reason> {
        if call.body.author.kind != AuthorKind::Person {
            return Err(Reason::WrongAuthor);
        }
        if !self.has_role(call.body.author, role) {
            return Err(Reason::RoleMissing);
        }
        let signers = call.body.signers.iter();
        Ok(signers.filter(|who| self.has_role(**who, role)).count())
    }

    /// One issuer; returned if nobody checks them.
    pub(super) fn issuer(&self, call: &Call<'_>) -> Result<Option<Person>, Reason> {
        let issuers = self.signers_with(call, Roles::ISSUER)?;
        Ok((issuers < 2).then_some(Person(call.body.author.number)))
    }

    /// Maker and checker.
    pub(super) fn two_issuers(&self, call: &Call<'_>) -> Result<(), Reason> {
        match self.issuer(call)? {
            Some(_) => Err(Reason::CheckerMissing),
            None => Ok(()),
        }
    }

    /// One admin.
    pub(super) fn admin(&self, call: &Call<'_>) -> Result<(), Reason> {
        self.signers_with(call, Roles::ADMIN).map(|_| ())
    }

    /// As many admins as the threshold.
    pub(super) fn admins(&self, call: &Call<'_>) -> Result<(), Reason> {
        let admins = self.signers_with(call, Roles::ADMIN)?;
        if admins < self.parameters.threshold as usize {
            return Err(Reason::ThresholdMissing);
        }
        Ok(())
    }

    /// The gateway that is the author.
    pub(super) fn author_gateway(&self, call: &Call<'_>) -> Result<GatewayNumber, Reason> {
        match call.body.author.kind {
            AuthorKind::Gateway => Ok(GatewayNumber(call.body.author.number)),
            _ => Err(Reason::WrongAuthor),
        }
    }

    /// The holder of this very account.
    pub(super) fn holder(&self, call: &Call<'_>, account: AccountNumber) -> Result<(), Reason> {
        if call.body.author.kind != AuthorKind::Account {
            return Err(Reason::WrongAuthor);
        }
        if call.body.author != account.into() {
            return Err(Reason::NotYours);
        }
        Ok(())
    }

    /// The holder, or maker and checker.
    pub(super) fn holder_or_issuers(
        &self,
        call: &Call<'_>,
        account: AccountNumber,
    ) -> Result<(), Reason> {
        match call.body.author.kind {
            AuthorKind::Account => self.holder(call, account),
            _ => self.two_issuers(call),
        }
    }

    /// The holder with an issuer, or maker and checker.
    pub(super) fn checked_by_issuer(
        &self,
        call: &Call<'_>,
        account: AccountNumber,
    ) -> Result<(), Reason> {
        if call.body.author.kind != AuthorKind::Account {
            return self.two_issuers(call);
        }
        self.holder(call, account)?;
        let mut signers = call.body.signers.iter();
        match signers.any(|who| self.has_role(*who, Roles::ISSUER)) {
            true => Ok(()),
            false => Err(Reason::CheckerMissing),
        }
    }

    /// A holder who may act: once the account is frozen, only issuers may.
    pub(super) fn not_frozen(&self, call: &Call<'_>, account: AccountNumber) -> Result<(), Reason> {
        let by_holder = call.body.author.kind == AuthorKind::Account;
        if by_holder && self.account(account)?.frozen {
            return Err(Reason::Frozen);
        }
        Ok(())
    }
}
