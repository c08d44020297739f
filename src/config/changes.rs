//! What tells one configuration from another, by key.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Config;

impl Config {
    /// The keys whose values differ in `new`, in order: `hosts.max`; of an output or a
    /// listener with its address, `output.rate of udp://127.0.0.1:8125`, or whether the
    /// whole of it is new or gone.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if let (Ok(old), Ok(new)) = (Table::try_from(self), Table::try_from(new)) {
            compare("", &old, &new, &mut changes);
        }
        changes
    }
}

fn compare(prefix: &str, old: &Table, new: &Table, changes: &mut Vec<String>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let name = format!("{prefix}{key}");
        match (old.get(key), new.get(key)) {
            (old, new) if old == new => {}
            (Some(Value::Table(old)), Some(Value::Table(new))) => {
                compare(&format!("{name}."), old, new, changes);
            }
            (old, new) => match (tables(old), tables(new)) {
                (Some(old), Some(new)) => by_address(&name, &old, &new, changes),
                _ => changes.push(name),
            },
        }
    }
}

/// The tables of an array that has nothing else, by their addresses.
fn tables(value: Option<&Value>) -> Option<Vec<(&str, &Table)>> {
    let Some(value) = value else {
        return Some(Vec::new());
    };
    let tables = value.as_array()?.iter().map(|value| {
        let table = value.as_table()?;
        Some((table.get("address")?.as_str()?, table))
    });
    tables.collect()
}

fn find<'a>(tables: &[(&str, &'a Table)], address: &str) -> Option<&'a Table> {
    let mut tables = tables.iter();
    tables
        .find(|(one, _)| *one == address)
        .map(|&(_, table)| table)
}

fn by_address(
    name: &str,
    old: &[(&str, &Table)],
    new: &[(&str, &Table)],
    changes: &mut Vec<String>,
) {
    let before = changes.len();
    for &(address, old) in old {
        match find(new, address) {
            None => changes.push(format!("{name} {address} is gone")),
            Some(new) => {
                let mut keys = Vec::new();
                compare(&format!("{name}."), old, new, &mut keys);
                let keys = keys.into_iter().map(|key| format!("{key} of {address}"));
                changes.extend(keys);
            }
        }
    }
    for &(address, _) in new {
        if find(old, address).is_none() {
            changes.push(format!("{name} {address} is new"));
        }
    }
    if changes.len() == before {
        // Two of one address, or another order.
        changes.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn every_key_that_differs_is_named() {
        let old = config(
            "[hosts]\nmax = 7\n[hosts.groups]\n\"10.0.0.0/8\" = \"a\"\n\
             [[output]]\naddress = \"stdout:\"\n\
             [[output]]\naddress = \"udp://127.0.0.1:1\"\nrate = \"1MiB/s\"\n",
        );
        let new = config(
            "interval = \"1s\"\n[hosts]\nmax = 8\n[hosts.groups]\n\"10.0.0.0/8\" = \"b\"\n\
             [[listener]]\naddress = \"udp://127.0.0.1:2\"\n\
             [[output]]\naddress = \"udp://127.0.0.1:1\"\nrate = \"2MiB/s\"\n",
        );
        let expected = [
            "hosts.groups.10.0.0.0/8",
            "hosts.max",
            "interval",
            "listener udp://127.0.0.1:2 is new",
            "output stdout: is gone",
            "output.rate of udp://127.0.0.1:1",
        ];
        assert_eq!(old.changes(&new), expected);
        assert!(old.changes(&old.clone()).is_empty());
    }

    #[test]
    fn another_order_is_a_change_too() {
        let [one, two] = ["stdout:", "udp://127.0.0.1:1"]
            .map(|address| format!("[[output]]\naddress = \"{address}\"\n"));
        let old = config(&format!("{one}{two}"));
        let new = config(&format!("{two}{one}"));
        assert_eq!(old.changes(&new), ["output"]);
    }
}
