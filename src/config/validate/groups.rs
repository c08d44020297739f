//! Outputs that share a `group`: what must be the same for all of them.

use super::Mistakes;
use crate::config::{Config, LineSource};

impl Config {
    pub(super) fn check_groups(&self, found: &mut Mistakes) {
        for members in self.output_groups() {
            let Some((&first_place, rest)) = members.split_first() else {
                continue;
            };
            let Some(first) = self.outputs.get(first_place) else {
                continue;
            };
            for (at, &place) in rest.iter().enumerate() {
                let Some(output) = self.outputs.get(place) else {
                    continue;
                };
                let both = |takes: LineSource| first.takes(takes) == output.takes(takes);
                let sources = both(LineSource::Collector) && both(LineSource::Listeners);
                for (same, key) in [
                    (output.group_mode == first.group_mode, "group_mode"),
                    (output.format == first.format, "format"),
                    (output.only == first.only, "only"),
                    (output.spread == first.spread, "spread"),
                    (sources, "sources"),
                ] {
                    if !same {
                        found.add(
                            format!("output[{place}].{key}"),
                            format!(
                                "must be as output[{first_place}].{key} is: both are in group {:?}",
                                output.group
                            ),
                        );
                    }
                }
                let mut before = members.iter().take(at + 1);
                if before.any(|&other| {
                    let other = self.outputs.get(other);
                    other.is_some_and(|other| other.address == output.address)
                }) {
                    found.add(
                        format!("output[{place}].address"),
                        format!("{} is in group {:?} already", output.address, output.group),
                    );
                }
            }
        }
    }
}
