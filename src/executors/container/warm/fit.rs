//! Whether a container that waits is the one that a job would have made: the two create requests are compared.
//!
//! The labels differ by nature, and the mount of the helpers' socket is brought about in another way. Memory, processor
//! share and number of processes can be changed while a container runs. Any other difference means that it does not fit.

use serde_json::{Map, Value, json};

use crate::executors::container::spec::Spec;

/// A create request, without what does not count.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    rest: Value,
    limits: Map<String, Value>,
}

/// How a container fits a job.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fit {
    Same,
    /// With these limits, as the engine's update request has them.
    Update(Value),
    Not,
}

/// What an update can change. Memory and swap go together.
const CHANGEABLE: [&str; 4] = ["Memory", "MemorySwap", "NanoCpus", "PidsLimit"];

impl Shape {
    pub(super) fn of(spec: &Spec<'_>) -> Self {
        let mut rest = spec.body();
        let mut limits = Map::new();
        rest["Labels"].take();
        let host = &mut rest["HostConfig"];
        host["Mounts"].take();
        for key in CHANGEABLE {
            limits.insert(key.to_owned(), host[key].take());
        }
        Self { rest, limits }
    }

    /// How a container of this shape fits a job that would make one of shape `wanted`.
    pub(super) fn fit(&self, wanted: &Self) -> Fit {
        if self.rest != wanted.rest {
            Fit::Not
        } else if self.limits == wanted.limits {
            Fit::Same
        } else {
            Fit::Update(json!(wanted.limits))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::types::{ResourceSet, Security};
    use crate::executors::container::labels::Labels;
    use crate::job::Language;

    fn shape(change: impl FnOnce(&mut ResourceSet, &mut Security), image: &str, helpers: Option<&Path>) -> Shape {
        let config = crate::config::defaults();
        let (mut resources, mut security) = (config.container.defaults, config.container.security);
        change(&mut resources, &mut security);
        let labels = Labels {
            job: None,
            agent: "a",
            owner: None,
            is_canary: false,
            language: Language::Bash,
            resources: &resources,
            nonce: image,
        };
        Shape::of(&Spec {
            image,
            labels,
            resources: &resources,
            security: &security,
            network: "n",
            dns: &[],
            device: None,
            seccomp: None,
            podman: false,
            helpers,
        })
    }

    #[test]
    fn only_what_an_update_changes_may_differ() {
        let same = shape(|_, _| (), "i", None);
        assert_eq!(same.fit(&shape(|_, _| (), "i", Some(Path::new("/x")))), Fit::Same);
        let more = shape(|set, _| (set.memory, set.cpu, set.pids) = (1 << 30, 2.0, 7), "i", None);
        let want = json!({
            "Memory": 1_u64 << 30, "MemorySwap": 1_u64 << 30, "NanoCpus": 2_000_000_000_i64, "PidsLimit": 7,
        });
        assert_eq!(same.fit(&more), Fit::Update(want));
        // Less memory than `/dev/shm` may take makes that smaller, which no update does.
        assert_eq!(same.fit(&shape(|set, _| set.memory = 32 << 20, "i", None)), Fit::Not);
        assert_eq!(same.fit(&shape(|set, _| set.disk /= 2, "i", None)), Fit::Not);
        assert_eq!(same.fit(&shape(|_, walls| walls.user = (7, 7), "i", None)), Fit::Not);
        assert_eq!(same.fit(&shape(|_, walls| walls.readonly_rootfs = false, "i", None)), Fit::Not);
        assert_eq!(same.fit(&shape(|_, _| (), "other", None)), Fit::Not);
    }
}
