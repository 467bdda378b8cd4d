//! Values that must never be printed.
//!
//! A token, a password, a key or a job's environment value is held in a [`Secret`] from the moment it is read. The type
//! has no `Display`, its `Debug` shows `***`, and the only way to the text is [`Secret::expose`], so that every place
//! where a secret leaves the program is found with one search.

use std::fmt;

/// Text that must not appear in logs, errors, metrics, `validate` output or process arguments.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call of this is a place where a secret leaves the program.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is an `Authorization` that shows `token`. It takes as long for a wrong one as for the right one.
    pub fn is_bearer_of(&self, token: &Self) -> bool {
        let (given, right) = (self.0.strip_prefix("Bearer ").unwrap_or_default().as_bytes(), token.0.as_bytes());
        let differ = given.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
        given.len() == right.len() && !right.is_empty() && differ == 0
    }

    /// What stands after the first `part`, if there is one.
    pub fn after(&self, part: &str) -> Option<Self> {
        self.0.split_once(part).map(|(_, after)| Self::new(after))
    }

    /// The secrets of an address: its password, and values of its query by their names.
    pub fn of_address(&self, is_secret: &dyn Fn(&str) -> bool) -> Vec<Self> {
        let rest = self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let login = authority.rsplit_once('@').map(|(login, _)| login.split_once(':').map_or(login, |(_, word)| word));
        let query = rest.split_once('?').map_or("", |(_, query)| query).split('#').next().unwrap_or_default();
        let named = query.split('&').filter_map(|pair| pair.split_once('='));
        let named = named.filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
        login.into_iter().chain(named).map(Self::new).collect()
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_bearer_shows_the_whole_token_or_nothing() {
        let token = Secret::new("abc");
        for (given, is_right) in
            [("Bearer abc", true), ("Bearer abd", false), ("Bearer ab", false), ("Bearer abcd", false), ("abc", false)]
        {
            assert_eq!(Secret::new(given).is_bearer_of(&token), is_right, "{given}");
        }
        assert!(!Secret::new("Bearer ").is_bearer_of(&Secret::new("")));
    }

    #[test]
    fn debug_shows_stars_alone() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        assert_eq!(format!("{:?}", Some(Secret::new(""))), "Some(***)");
    }
}
