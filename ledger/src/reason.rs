//! Why a transaction is refused: numbered, never reused, each with advice.
//!
//! A refusal is one node's answer at one height. It is final only where
//! [`Reason::retry`] says `Never`.

/// What a client should do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// These bytes will never be accepted.
    Never,
    /// Send the same bytes again later; they may be accepted.
    SameBytes,
    /// It has happened already; nothing to do.
    Done,
}

macro_rules! reasons {
    ($($number:literal $name:ident $retry:ident $text:literal)*) => {
        /// Why a transaction is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Reason {
            $(#[doc = $text] $name = $number,)*
        }

        impl Reason {
            /// All of them, by number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// A stable name for machines.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// One line for people.
            pub fn message(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// What to do about it.
            pub fn retry(self) -> Retry {
                match self { $(Reason::$name => Retry::$retry,)* }
            }
        }
    };
}

reasons! {
    // Form.
    1 Malformed Never "the body is not a canonical encoding, or a field is out of its range"
    2 TooLarge Never "body, payload or list is over its bound"
    3 UnknownVersion Never "the body has a version that this chain does not know"
    4 UnexpectedPayload Never "this action carries no payload"
    5 MalformedPayload Never "the payload does not have the form that the action needs"
    // Signatures.
    10 SignerList Never "signers must be the author first, then ascending without repeats"
    11 SignatureCount Never "there must be exactly one signature per signer, in their order"
    12 UnknownSigner SameBytes "a signer does not exist"
    13 BadSignature SameBytes "a signature does not verify under its signer's current key on this chain"
    // Validity and replay.
    20 IdRequired Never "persons, accounts and API keys need a non-zero id and a valid_until"
    21 IdForbidden Never "gateways' transactions are counted: id and valid_until must be zero"
    22 Expired Never "valid_until has passed"
    23 TooFarAhead SameBytes "valid_until is more than 168 hours ahead"
    24 Duplicate Done "this transaction is already in the log"
    25 IdTaken SameBytes "the author has used this id for another transaction"
    26 TooManyIds SameBytes "the author has too many live ids"
    // Authority.
    30 WrongAuthor Never "this kind of author cannot do this"
    31 RoleMissing SameBytes "the author does not have the role that this needs"
    32 CheckerMissing SameBytes "a second person with this role must sign"
    33 ThresholdMissing SameBytes "fewer admins signed than the threshold"
    34 NotYours Never "the author may not act on this account, key or lease"
    // References.
    40 UnknownAccount SameBytes "no such account"
    41 UnknownClass SameBytes "no such class"
    42 UnknownGrant SameBytes "no such grant, or it holds nothing any more"
    43 UnknownApiKey SameBytes "no such API key"
    44 UnknownGateway SameBytes "no such gateway"
    45 UnknownPerson SameBytes "no such person, and not the next number"
    46 UnknownModel SameBytes "no such model in the price table"
    47 UnknownTable SameBytes "no such price table, or not in force while the lease was open"
    48 UnknownReceipt Never "the leaf is no receipt"
    49 BadInclusion SameBytes "the proof does not show this leaf at this index under the parent block's log root"
    // Policy.
    60 Frozen SameBytes "the account is frozen; its holder can only revoke API keys"
    61 NotFrozen SameBytes "the account is not frozen"
    62 NotBurnable Never "this grant may not be burned by the author"
    63 AlreadyRevoked Never "it is revoked already"
    64 KeyBoundBefore Never "this public key has been bound before"
    65 TooManyGrants SameBytes "the account would hold more than 64 live grants of this class"
    66 TooManyKeys SameBytes "the account would hold more than 64 API keys"
    67 SupplyCap SameBytes "the class's supply cap of this period would be exceeded"
    68 Amount Never "an amount is zero, or a sum leaves its range"
    69 OverReceipt SameBytes "corrections would exceed what the receipt charged"
    70 Dates Never "a grant must vest before it expires, and expire in the future"
    71 KeyTaken SameBytes "another person or gateway has this key"
    72 UnlawfulRoles Never "nobody is issuer and admin, or issuer and validator owner"
    73 TooFewAdmins SameBytes "fewer admins than the threshold would be left"
    74 UnlawfulRules Never "class rules are malformed"
    75 UnlawfulPrices Never "the price table is malformed"
    76 TableVersion SameBytes "the price table's version is not the next"
    77 UnlawfulParameters Never "a parameter is out of its range"
    78 AlreadySuspended Never "the gateway is suspended already"
    79 OnePriceTablePerBlock SameBytes "another price table was set in this block"
    80 Insufficient SameBytes "the grant does not have that much free"
    81 TableFull Never "the table of this kind is full"
    82 NameTaken SameBytes "another class has this name"
    83 OwnsValidator SameBytes "who owns a validator of the set keeps the validator role"
    84 UnlawfulRates Never "the fee unit or a limit per minute is out of its range"
    // Evidence.
    85 EvidenceForm Never "the two messages are the same or out of order, or certificates of different rounds, which name nobody"
    86 EvidenceHeight SameBytes "the height of the evidence is not committed yet"
    87 EvidenceUnproven Never "a signature or certificate of the evidence does not verify"
    88 EvidenceKnown Done "the chain has evidence of this height, or of many later ones, against all whom this names"
    89 EvidencePerBlock SameBytes "the block has its most evidence already"
    // Gateways.
    90 JournalNotCurrent Never "the journal is fenced: the gateway has opened a later one"
    91 JournalNotNext SameBytes "not the gateway's next journal"
    92 LeaseNotNext SameBytes "not the gateway's next lease number"
    93 LeaseNotOpen Never "the lease is closed, or was never granted"
    94 LeaseAhead SameBytes "the lease number is above the gateway's last"
    95 LeaseMismatch SameBytes "account, class or API key is unlike the open lease's"
    96 DebitNotNext SameBytes "the first debit's number is not the journal's next"
    97 DebitCount Never "a batch has 1 to 10000 debits, exactly as many as the body says"
    98 DebitRoot Never "the debits do not hash to the body's root"
    99 DebitForm Never "a debit's version, kind or flags are unknown"
    100 UsageForm Never "a count has no meter, a subset is above its whole, or the fee is out of range"
    101 SuspendedAndClosed Never "the gateway is suspended and its last lease is closed"
    102 PreviousJournalIntact Never "journal 1 has no previous one to lose"
    103 LeaseForm Never "wanted amount and duration must not be zero"
    104 JournalAhead SameBytes "the gateway has not opened this journal yet"
}

impl Reason {
    /// Its number.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The reason of this number.
    pub fn from_number(number: u16) -> Option<Reason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.number() == number)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.name(), self.number(), self.message())
    }
}

impl std::error::Error for Reason {}
