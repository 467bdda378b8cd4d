//! `container.images`: which images scripts run in, and how long those stay that are not used any more.

use super::draft::Draft;
use super::field::Value;
use super::keys::key;
use super::types::PullPolicy;
use crate::job::Language;
use std::time::Duration;

/// `container.images`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    pub bash: String,
    pub python: String,
    pub nodejs: String,
    /// Every image is named with its digest.
    pub require_digest: bool,
    /// Missing images are pulled before a job needs them.
    pub pre_pull: bool,
    pub prune: Prune,
}

impl Images {
    /// The image for scripts of this language.
    pub fn of(&self, language: Language) -> &str {
        match language {
            Language::Bash => &self.bash,
            Language::Python => &self.python,
            Language::Node => &self.nodejs,
        }
    }

    /// Each image once.
    pub fn all(&self) -> Vec<&str> {
        let mut all = vec![self.bash.as_str(), &self.python, &self.nodejs];
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// `container.images.prune`: the shares are of the file system that holds the engine's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// From here on images are removed. `None`: never.
    pub high: Share,
    /// Until less than this is used.
    pub low: Share,
    /// An image that was used more recently stays.
    pub keep: Duration,
}

/// Whole per cent; `None` is `off`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share(pub Option<u8>);

impl Share {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let number = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|digits| digits.parse().ok()).filter(|percent| (1..=100).contains(percent));
        number.map(|percent| Self(Some(percent))).ok_or_else(String::new)
    }

    pub(super) fn shown(&self) -> String {
        self.0.map_or_else(|| "off".to_owned(), |percent| format!("{percent}%"))
    }
}

/// Whether an image's name holds the digest of its manifest.
pub fn has_digest(image: &str) -> bool {
    let hex = |digest: &str| digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    image.rsplit_once("@sha256:").is_some_and(|(name, digest)| !name.is_empty() && hex(digest))
}

/// What to write in place of an image's name that has none.
pub fn digest_hint(image: &str) -> String {
    format!(
        "write it as NAME@sha256:…; once the image was pulled, \
         `docker image inspect --format '{{{{index .RepoDigests 0}}}}' {image}` prints that"
    )
}

const NAMES: [&str; 3] = ["container.images.bash", "container.images.python", "container.images.nodejs"];
const HIGH: &str = "container.images.prune.high";
const LOW: &str = "container.images.prune.low";

pub(super) fn check(draft: &mut Draft<'_>) {
    let images = draft.config.container.images.clone();
    for name in NAMES {
        let Some(Value::Text(image)) = key(name).map(|key| key.get(&draft.config)) else { continue };
        if images.require_digest && draft.good(&[name]) && !has_digest(&image) {
            let hint = digest_hint(&image);
            draft.refuse(name, format!("found {image}, while container.images.requireDigest is true; {hint}"));
        }
    }
    if images.pre_pull && draft.config.container.pull_policy == PullPolicy::Never {
        let text = "nothing is pulled ahead, since container.images.pullPolicy is never";
        draft.warn("container.images.prePull", text);
    }
    marks(draft, images.prune);
}

/// The lower mark is below the upper one. Where only the upper one was given, the lower one follows it down.
fn marks(draft: &mut Draft<'_>, prune: Prune) {
    let (Some(high), true) = (prune.high.0, draft.good(&[HIGH, LOW])) else { return };
    match prune.low.0 {
        None => draft.refuse(LOW, "found off; allowed: a percentage; to remove no image, set prune.high to off"),
        Some(low) if low < high => {}
        Some(_) if draft.is_default(LOW) && high > 1 => {
            draft.config.container.images.prune.low = Share(Some(high - 1));
            let because = super::problem::Origin::DefaultBecause(format!("lowered below {HIGH}"));
            draft.origins.insert(LOW, because);
        }
        Some(low) => draft.refuse(LOW, format!("found {low}%; allowed: less than {HIGH}, which is {high}%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_per_cent_or_off() {
        for (text, want) in [("off", Share(None)), ("1%", Share(Some(1))), ("100%", Share(Some(100)))] {
            let read = Share::parse(text).expect("a share");
            assert_eq!((read, read.shown().as_str()), (want, text));
        }
        for bad in ["0%", "101%", "85", "8 5%", "+5%", "-5%", "%", "8.5%", "999%", "Off"] {
            assert!(Share::parse(bad).is_err(), "{bad}");
        }
    }

    /// The problems of a configuration with these keys, or what is in effect.
    fn load(pairs: &[(&str, &str)]) -> Result<(Images, Vec<String>), String> {
        let env = |name: &str| (name == "CRONIUM_API_TOKEN").then(|| "t".to_owned());
        let mut overrides = vec![("api.endpoint".to_owned(), "http://127.0.0.1:5001".to_owned())];
        overrides.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let sources = crate::config::Sources { search: Vec::new(), overrides, ..crate::config::Sources::new(&env) };
        let loaded = crate::config::load(&sources).map_err(|problems| problems.to_string())?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Ok((loaded.config.container.images, warnings))
    }

    #[test]
    fn with_require_digest_each_image_without_one_is_refused_with_what_to_write() {
        let digest = format!("h:5000/a@sha256:{}", "0".repeat(64));
        let require = ("container.images.requireDigest", "true");
        let refused = load(&[require, ("container.images.python", &digest)]).expect_err("two have none");
        assert!(refused.contains("container.images.bash") && refused.contains("container.images.nodejs"), "{refused}");
        assert!(
            !refused.contains("container.images.python") && refused.contains("write it as NAME@sha256:"),
            "{refused}"
        );
        let all = [NAMES[0], NAMES[1], NAMES[2]].map(|name| (name, digest.as_str()));
        let (images, _) = load(&[&all[..], &[require]].concat()).expect("each has one");
        assert!(images.require_digest && images.all() == [digest.as_str()]);
    }

    #[test]
    fn the_lower_mark_is_below_the_upper_one() {
        let marks = |high: &str, low: Option<&str>| {
            let mut pairs = vec![(HIGH, high)];
            pairs.extend(low.map(|low| (LOW, low)));
            load(&pairs).map(|(images, _)| (images.prune.high.0, images.prune.low.0))
        };
        assert_eq!(marks("90%", Some("89%")), Ok((Some(90), Some(89))));
        assert_eq!(marks("60%", None), Ok((Some(60), Some(59))), "the default follows");
        assert_eq!(marks("off", Some("99%")), Ok((None, Some(99))));
        for (high, low) in [("60%", "60%"), ("60%", "75%"), ("60%", "off")] {
            assert!(marks(high, Some(low)).is_err_and(|why| why.contains(LOW)), "{high} {low}");
        }
        let never = [("container.images.prePull", "true"), ("container.images.pullPolicy", "never")];
        assert!(load(&never).expect("valid").1.iter().any(|warning| warning.contains("nothing is pulled ahead")));
    }

    #[test]
    fn a_digest_is_sixty_four_lower_hex_digits_behind_a_name() {
        let digest = "0123456789abcdef".repeat(4);
        for good in ["a", "a:1", "h:5000/a/b:1"] {
            assert!(has_digest(&format!("{good}@sha256:{digest}")), "{good}");
        }
        let short = &digest[1..];
        for bad in [
            "a".to_owned(),
            "a:1".to_owned(),
            format!("@sha256:{digest}"),
            format!("a@sha256:{short}"),
            format!("a@sha256:{}", digest.to_uppercase()),
            format!("a@sha512:{digest}"),
            format!("a:sha256:{digest}"),
        ] {
            assert!(!has_digest(&bad), "{bad}");
        }
    }
}
