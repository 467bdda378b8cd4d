//! Which images may go, and how one goes: only what this agent pulled, and nobody uses.
//!
//! The engine itself refuses to remove an image that a container has, or that another image was made from.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::docker::{self, Error};
use crate::executors::container::images::{Images, Pulled};

/// What becomes of an image that this agent pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nobody needs it.
    Free,
    /// It is not in the engine any more.
    Gone,
    /// Why it stays, in words.
    Kept(&'static str),
}

const BY_CONTAINER: &str = "a container has it";
const CONFIGURED: &str = "container.images names it";
const RECENT: &str = "it was used recently";
const OTHERS: &str = "it has another name too, which this agent did not give it";
const TAKEN: &str = "a job takes it";

/// An image, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub image: Pulled,
    pub fate: Fate,
    /// Bytes, layers that other images share included; 0 where the engine was not asked.
    pub size: u64,
}

/// Looks at each of `pulled`. One that was used within `keep` stays, and so does each that is `configured`.
pub fn look(
    docker: &docker::Client,
    pulled: Vec<Pulled>,
    configured: &[&str],
    (keep, now_ms): (Duration, u64),
) -> Result<Vec<Seen>, Error> {
    if pulled.is_empty() {
        return Ok(Vec::new());
    }
    let used: BTreeSet<String> = docker.list(&[])?.into_iter().map(|row| row.image).collect();
    let mut wanted = BTreeSet::new();
    for name in configured {
        wanted.extend(docker.image_id(name)?);
    }
    let mut all = Vec::with_capacity(pulled.len());
    for image in pulled {
        let age = Duration::from_millis(now_ms.saturating_sub(image.used_ms));
        let kept = match () {
            () if used.contains(&image.id) => Some(BY_CONTAINER),
            () if wanted.contains(&image.id) || configured.contains(&image.name.as_str()) => Some(CONFIGURED),
            () if age < keep => Some(RECENT),
            () => None,
        };
        let found = docker.image(&image.id)?;
        let fate = match (&found, kept) {
            (None, _) => Fate::Gone,
            (_, Some(why)) => Fate::Kept(why),
            (Some(found), None) if found.has_other_names(&image.name) => Fate::Kept(OTHERS),
            (Some(_), None) => Fate::Free,
        };
        all.push(Seen { image, fate, size: found.map_or(0, |found| found.size) });
    }
    Ok(all)
}

/// Removes an image that was [`Fate::Free`], unless somebody has come to it meanwhile; its fate.
pub fn remove(docker: &docker::Client, images: &Images, image: &Pulled) -> Result<Fate, Error> {
    let Some(_leaving) = images.begin_removal(&image.name) else { return Ok(Fate::Kept(TAKEN)) };
    if let Some(found) = docker.image(&image.id)? {
        if found.has_other_names(&image.name) {
            return Ok(Fate::Kept(OTHERS));
        }
        docker.remove_image(&image.id)?;
    }
    images.forget(&image.id);
    Ok(Fate::Gone)
}
