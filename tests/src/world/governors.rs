//! What admins of a world write.

use tally_ledger::{
    action::{Action, RegisterGateway, SetClass, SetGatewayKey, SetRole, SetUnit},
    codec::List,
    ids::{Amount, ClassNumber, GatewayNumber, Person},
    parameters::Parameters,
    person::Roles,
    rates::{ClassRate, MAX_FEE_UNIT, Rate},
};

use super::{
    Dice, World,
    draft::Draft,
    genesis::{caps, class, parameters, prices, rates},
};

impl World {
    /// By as many admins as the threshold asks for.
    fn by_admins(&mut self, dice: &mut Dice, action: Action) -> Draft {
        let admins = self.with_role(dice, Roles::ADMIN);
        let needed = self.oracle.parameters.threshold as usize;
        let signers = match dice.wild(5) {
            true => needed.saturating_sub(1).max(1),
            false => needed,
        };
        let signers = &admins[..signers.min(admins.len())];
        self.envelope(dice, admins[0], signers, action)
    }

    pub(super) fn write_set_role(&mut self, dice: &mut Dice) -> Draft {
        let count = self.oracle.persons.len() as u64;
        let number = match dice.below(3) {
            0 => count,
            _ => dice.below(count),
        };
        let number = if dice.wild(6) { count + 1 } else { number } as u32;
        let present = self.oracle.persons.get(&number);
        let roles = match dice.below(6) {
            0 => Roles::NONE,
            1 => Roles::ISSUER,
            2 => Roles::ADMIN.with(Roles::AUDITOR),
            3 => Roles::AUDITOR,
            _ => present.map_or(Roles::ISSUER, |p| p.roles),
        };
        let roles = match dice.wild(4) {
            true => dice.pick(&[
                Roles::ISSUER.with(Roles::ADMIN),
                Roles::ISSUER.with(Roles::VALIDATOR),
                Roles(32),
            ]),
            false => roles,
        };
        let keys: Vec<_> = self.oracle.persons.values().map(|p| p.key).collect();
        let kept = present.map(|p| p.key);
        let key = match (dice.wild(4), kept) {
            (true, _) => dice.pick(&keys),
            (false, Some(key)) if dice.below(2) == 0 => key,
            _ => self.ring.fresh(),
        };
        let action = Action::SetRole(SetRole {
            person: Person(number),
            key,
            roles,
        });
        self.by_admins(dice, action)
    }

    pub(super) fn write_set_unit(&mut self, dice: &mut Dice) -> Draft {
        let count = self.oracle.persons.len() as u64;
        let number = match dice.wild(5) {
            true => dice.pick(&[count, count + 1]),
            false => dice.below(count),
        };
        let unit = dice.pick(&[None, Some(0), Some(1), Some(u32::MAX)]);
        let action = Action::SetUnit(SetUnit {
            person: Person(number as u32),
            unit,
        });
        self.by_admins(dice, action)
    }

    pub(super) fn write_set_class(&mut self, dice: &mut Dice) -> Draft {
        let count = self.oracle.classes.len() as u64;
        let number = match dice.below(4) {
            0 if count < 7 => count,
            _ => dice.below(count),
        };
        let number = if dice.wild(5) { count + 1 } else { number } as u16;
        let mut rules = class(dice, number);
        rules.period_days = dice.pick(&[rules.period_days, 1, 3, 30]);
        if dice.wild(4) {
            rules.name = dice.pick(&["class-0", "Upper", ""]).into();
        }
        let action = Action::SetClass(SetClass {
            class: ClassNumber(number),
            rules,
        });
        self.by_admins(dice, action)
    }

    pub(super) fn write_set_prices(&mut self, dice: &mut Dice) -> Draft {
        let newest = *self.oracle.tables.keys().last().unwrap();
        let version = match dice.wild(3) {
            true => dice.pick(&[0, newest, newest + 2]),
            false => newest + 1,
        };
        let mut table = prices(dice, version);
        if dice.wild(3) {
            let mut models = table.models.to_vec();
            match dice.below(3) {
                0 => models.reverse(),
                1 => models[0].name = "another".into(),
                _ => models[1].weight_coefficient = 1 << 38,
            }
            table.models = tally_ledger::codec::List::new(models).unwrap();
        }
        self.by_admins(dice, Action::SetPriceTable(table))
    }

    pub(super) fn write_set_parameters(&mut self, dice: &mut Dice) -> Draft {
        let mut new = parameters(dice);
        if dice.wild(3) {
            new = Parameters {
                threshold: dice.pick(&[0, 9, 17]),
                ..new
            };
        }
        self.by_admins(dice, Action::SetParameters(new))
    }

    pub(super) fn write_set_rates(&mut self, dice: &mut Dice) -> Draft {
        let mut new = rates(dice, self.oracle.classes.len() as u64);
        if dice.wild(3) {
            let mut classes = new.classes.to_vec();
            match dice.below(4) {
                0 => new.fee_unit = Amount(dice.pick(&[0, MAX_FEE_UNIT.0 + 1])),
                1 => new.key.tokens = 0,
                2 => classes.extend(classes.first().copied()),
                _ => classes.push(ClassRate {
                    class: ClassNumber(99),
                    rate: Rate::NONE,
                }),
            }
            new.classes = List::new(classes).unwrap();
        }
        self.by_admins(dice, Action::SetRates(new))
    }

    pub(super) fn write_gateway(&mut self, dice: &mut Dice) -> Draft {
        let keys: Vec<_> = self.oracle.gateways.values().map(|g| g.key).collect();
        let number = dice.below(keys.len() as u64) as u32;
        let key = match dice.below(4) {
            0 => keys[number as usize],
            _ => self.ring.fresh(),
        };
        let key = if dice.wild(3) { dice.pick(&keys) } else { key };
        let caps = caps(dice);
        let action = match dice.below(4) {
            0 if keys.len() < 5 && key != keys[number as usize] => {
                Action::RegisterGateway(RegisterGateway { key, caps })
            }
            _ => Action::SetGatewayKey(SetGatewayKey {
                gateway: GatewayNumber(if dice.wild(5) { 99 } else { number }),
                key,
                caps,
            }),
        };
        self.by_admins(dice, action)
    }

    /// Gateways never come back, so mostly another one comes instead.
    pub(super) fn write_suspend(&mut self, dice: &mut Dice) -> Draft {
        if dice.below(2) == 0 {
            return self.write_gateway(dice);
        }
        let count = self.oracle.gateways.len() as u64;
        let number = GatewayNumber(dice.below(count + u64::from(dice.hostile)) as u32);
        let admins = self.with_role(dice, Roles::ADMIN);
        self.envelope(dice, admins[0], &[], Action::SuspendGateway(number))
    }
}
