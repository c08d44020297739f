//! Metric lines as a receiver reads them.

/// One metric with a whole value, as the agent's own are, borrowed from its line.
#[derive(Debug)]
pub(crate) struct Metric<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: usize,
    pub(crate) kind: &'a str,
    pub(crate) tags: Vec<&'a str>,
}

impl<'a> Metric<'a> {
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once(':')?;
        let mut fields = rest.split('|');
        let value = fields.next()?.parse().ok()?;
        let kind = fields.next()?;
        let tags = fields.find_map(|field| field.strip_prefix('#'));
        Some(Self {
            name,
            value,
            kind,
            tags: tags.map_or_else(Vec::new, |tags| tags.split(',').collect()),
        })
    }

    /// Whether it has that name, and a tag that begins with each of these.
    fn is(&self, name: &str, tags: &[&str]) -> bool {
        self.name == name
            && tags
                .iter()
                .all(|wanted| self.tags.iter().any(|tag| tag.starts_with(wanted)))
    }
}

/// What all counts of that name and those tags add up to.
pub(crate) fn total(text: &str, name: &str, tags: &[&str]) -> usize {
    text.lines()
        .filter_map(Metric::parse)
        .filter(|metric| metric.kind == "c" && metric.is(name, tags))
        .map(|metric| metric.value)
        .sum()
}

/// The last value of the one gauge of that name and those tags.
pub(crate) fn last(text: &str, name: &str, tags: &[&str]) -> Option<usize> {
    text.lines()
        .filter_map(Metric::parse)
        .rfind(|metric| metric.kind == "g" && metric.is(name, tags))
        .map(|metric| metric.value)
}
