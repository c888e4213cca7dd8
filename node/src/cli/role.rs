//! `tally role`: persons and what they may do.

use std::path::PathBuf;

use serde_json::json;
use tally_ledger::{
    action::{Action, SetRole, SetUnit},
    ids::Person,
    person::{PersonState, Roles},
    tree::Table,
};

use super::{
    args::{GenesisArg, runtime},
    client::NodeArg,
    exit::Exit,
    genesis::show_roles,
    genesis_config::read_public,
    keys::KeyKind,
    output::{self, Format},
    submit::SubmitArgs,
};

/// Persons and their roles
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RoleCommand {
    /// Add a person, or change a person's key and roles (admins sign)
    #[command(
        after_help = "Example:\n  tally role set --person 9 --public eva.pub \\\n    \
        --role issuer --genesis genesis.json --key admin-0.key --key admin-1.key\n\n\
        A new person gets the next number, see `tally role list`. No --role: retired."
    )]
    Set(Set),
    /// Say whose totals a unit manager reads: those of one unit, or of none (admins sign)
    #[command(
        after_help = "Example:\n  tally role set-unit --person 9 --unit 12 \\\n    \
        --genesis genesis.json --key admin-0.key --key admin-1.key\n  \
        tally role set-unit --person 9 --none ...\n\n\
        It takes effect with the role unit-manager (`tally role set`). All validators and \
        gateways must\nrun a version that knows units before the first change."
    )]
    SetUnit(SetUnitArgs),
    /// List all persons, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally role list --genesis genesis.json")]
    List(List),
}

/// Arguments of `role set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Person number
    #[arg(long)]
    person: u32,
    /// Public key file of the person
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    /// Role from now on; repeat for each
    #[arg(long = "role", value_enum)]
    roles: Vec<Role>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `role set-unit`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetUnitArgs {
    /// Person number
    #[arg(long)]
    person: u32,
    /// Organisational number, as accounts carry it
    #[arg(long, required_unless_present = "none")]
    unit: Option<u32>,
    /// Of no unit any more
    #[arg(long, conflicts_with = "unit")]
    none: bool,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `role list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// Opens accounts, issues, revokes, corrects, freezes.
    Issuer,
    /// Governs, with others.
    Admin,
    /// Owns a validator.
    Validator,
    /// Reads everything.
    Auditor,
    /// Reads its unit's totals.
    UnitManager,
}

impl Role {
    fn roles(self) -> Roles {
        match self {
            Role::Issuer => Roles::ISSUER,
            Role::Admin => Roles::ADMIN,
            Role::Validator => Roles::VALIDATOR,
            Role::Auditor => Roles::AUDITOR,
            Role::UnitManager => Roles::UNIT_MANAGER,
        }
    }
}

impl RoleCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            RoleCommand::Set(set) => {
                let key = read_public(&set.public, KeyKind::Person)?;
                let roles = set
                    .roles
                    .iter()
                    .fold(Roles::NONE, |all, role| all.with(role.roles()));
                anyhow::ensure!(
                    roles.are_lawful(),
                    "nobody is issuer and admin, or issuer and validator owner"
                );
                let action = Action::SetRole(SetRole {
                    person: Person(set.person),
                    key,
                    roles,
                });
                set.submit.run(format, action)
            }
            RoleCommand::SetUnit(set) => {
                let (person, unit) = (Person(set.person), set.unit);
                let action = Action::SetUnit(SetUnit { person, unit });
                set.submit.run(format, action)
            }
            RoleCommand::List(list) => list.run(format),
        }
    }
}

impl List {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let rows = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let mut rows = Vec::new();
            for number in 0.. {
                let leaf = client.leaf(&genesis, Table::Persons, number).await?;
                let Some((_, leaf)) = leaf else { break };
                let person = PersonState::from_leaf(&leaf)?;
                let mut row = json!({
                    "person": number,
                    "roles": show_roles(person.roles),
                    "key": person.key,
                });
                if let Some(unit) = person.unit {
                    row["unit"] = unit.into();
                }
                rows.push(row);
            }
            anyhow::Ok(rows)
        })?;
        output::print(format, &rows)?;
        Ok(Exit::Done)
    }
}
