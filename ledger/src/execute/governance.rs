//! What admins decide: roles, units, classes, prices, parameters, rates.

use super::{Call, Draft};
use crate::{
    action::{SetClass, SetRole, SetUnit},
    class::{Class, ClassRules, MAX_CLASSES, Totals},
    crypto::PublicKey,
    entry::Event,
    ids::{Amount, ClassNumber, Person},
    parameters::Parameters,
    person::{PersonState, Roles},
    price::PriceTable,
    rates::Rates,
    reason::Reason,
};

impl Draft<'_> {
    /// Admins with `person` having `roles` instead of their own.
    fn admins_with(&self, person: Option<Person>, roles: Roles) -> usize {
        let others = (0..).map(Person).zip(self.persons.iter());
        let others = others
            .filter(|(number, other)| Some(*number) != person && other.roles.has(Roles::ADMIN));
        others.count() + usize::from(roles.has(Roles::ADMIN))
    }

    /// No two persons have the same key.
    fn person_key_is_taken(&self, person: Person, key: &PublicKey) -> bool {
        let mut persons = (0..).map(Person).zip(self.persons.iter());
        persons.any(|(number, other)| number != person && other.key == *key)
    }

    pub(super) fn set_role(&mut self, call: &Call<'_>, action: &SetRole) -> Result<(), Reason> {
        self.admins(call)?;
        let SetRole { person, key, roles } = *action;
        let count = self.persons.len();
        if person.0 as usize > count {
            return Err(Reason::UnknownPerson);
        }
        if self.person_key_is_taken(person, &key) {
            return Err(Reason::KeyTaken);
        }
        let mut validators = self.base.validators().0.iter();
        let owns = validators.any(|validator| validator.owner == person);
        if !roles.are_lawful() || (owns && roles.has(Roles::ISSUER)) {
            return Err(Reason::UnlawfulRoles);
        }
        if owns && !roles.has(Roles::VALIDATOR) {
            return Err(Reason::OwnsValidator);
        }
        if self.admins_with(Some(person), roles) < self.parameters.threshold as usize {
            return Err(Reason::TooFewAdmins);
        }
        if (person.0 as usize) < count {
            let known = self.person_mut(person);
            known.key = key;
            known.roles = roles;
        } else {
            self.persons.push(PersonState {
                key,
                roles,
                day: 0,
                day_total: Amount::ZERO,
                unit: None,
            });
        }
        let transaction = call.id;
        self.log(Event::RoleSet {
            transaction,
            person,
        });
        Ok(())
    }

    pub(super) fn set_unit(&mut self, call: &Call<'_>, action: &SetUnit) -> Result<(), Reason> {
        self.admins(call)?;
        let SetUnit { person, unit } = *action;
        self.person(person).ok_or(Reason::UnknownPerson)?;
        self.person_mut(person).unit = unit;
        let transaction = call.id;
        self.log(Event::UnitSet {
            transaction,
            person,
            unit,
        });
        Ok(())
    }

    pub(super) fn set_class(&mut self, call: &Call<'_>, action: &SetClass) -> Result<(), Reason> {
        self.admins(call)?;
        let SetClass { class, rules } = action;
        let count = self.classes.len();
        if usize::from(class.0) > count {
            return Err(Reason::UnknownClass);
        }
        if usize::from(class.0) >= MAX_CLASSES {
            return Err(Reason::TableFull);
        }
        if !rules.are_lawful() {
            return Err(Reason::UnlawfulRules);
        }
        if self.name_is_taken(*class, rules) {
            return Err(Reason::NameTaken);
        }
        if usize::from(class.0) < count {
            let day = self.now.day();
            self.class_mut(*class).set_rules(rules.clone(), day);
        } else {
            self.classes.push(Class {
                rules: rules.clone(),
                totals: Totals::default(),
                period: 0,
                period_issued: Amount::ZERO,
            });
        }
        self.log(Event::ClassSet {
            transaction: call.id,
            class: *class,
        });
        Ok(())
    }

    fn name_is_taken(&self, class: ClassNumber, rules: &ClassRules) -> bool {
        let mut classes = (0..).map(ClassNumber).zip(self.classes.iter());
        classes.any(|(number, other)| number != class && other.rules.name == rules.name)
    }

    pub(super) fn set_price_table(
        &mut self,
        call: &Call<'_>,
        table: &PriceTable,
    ) -> Result<(), Reason> {
        self.admins(call)?;
        if self.prices.len() > self.chain.table.0 as usize {
            return Err(Reason::OnePriceTablePerBlock);
        }
        if Some(table.version.0) != self.chain.table.0.checked_add(1) {
            return Err(Reason::TableVersion);
        }
        if table.validate().is_err() || self.renames_a_model(table) {
            return Err(Reason::UnlawfulPrices);
        }
        self.prices.push(table.clone());
        self.log(Event::PriceTableSet {
            transaction: call.id,
            version: table.version,
        });
        Ok(())
    }

    /// A model's number keeps its name for all time.
    fn renames_a_model(&self, table: &PriceTable) -> bool {
        let renames = |old: &PriceTable| {
            let mut models = table.models.iter();
            models.any(|model| {
                let known = old.model(model.number);
                known.is_some_and(|known| known.name != model.name)
            })
        };
        self.prices.iter().any(renames)
    }

    pub(super) fn set_parameters(
        &mut self,
        call: &Call<'_>,
        parameters: &Parameters,
    ) -> Result<(), Reason> {
        self.admins(call)?;
        if parameters.validate().is_err() {
            return Err(Reason::UnlawfulParameters);
        }
        if self.admins_with(None, Roles::NONE) < parameters.threshold as usize {
            return Err(Reason::TooFewAdmins);
        }
        self.parameters = *parameters;
        let transaction = call.id;
        self.log(Event::ParametersSet { transaction });
        Ok(())
    }

    pub(super) fn set_rates(&mut self, call: &Call<'_>, rates: &Rates) -> Result<(), Reason> {
        self.admins(call)?;
        for of in rates.classes.iter() {
            self.class(of.class)?;
        }
        if rates.validate().is_err() {
            return Err(Reason::UnlawfulRates);
        }
        let old = self.rates.get(0).cloned();
        let next = old.unwrap_or_default().next(rates.clone(), self.now);
        match self.rates.get_mut(0) {
            Some(known) => *known = next,
            None => {
                self.rates.push(next);
            }
        }
        let transaction = call.id;
        self.log(Event::RatesSet { transaction });
        Ok(())
    }
}
