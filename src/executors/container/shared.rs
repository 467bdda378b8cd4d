//! What all containers of one configuration share: the engine, the settings, the image, the network.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::config::types::{Container as Settings, Jobs, NetworkMode, PullPolicy, ResourceSet, Seccomp};
use crate::docker::networks::Bridge;
use crate::docker::{self, Deadline, Error};
use crate::executors::Control;
use crate::executors::container::guard::Container;
use crate::executors::container::helper_mount::Mounts;
use crate::executors::container::images::Images;
use crate::executors::container::pulls::Pulls;
use crate::executors::container::seccomp;
use crate::executors::container::unconfirmed::UnconfirmedContainers;
use crate::executors::container::usage::Sampler;
use crate::job::Output;
use crate::os::owner::Owner;
use crate::signing::receipt::Facts;
use crate::signing::sha256;

/// A name server that answers nobody, seen from a job's network.
const NOBODY: &str = "127.0.0.1";

/// See the module's text. A reload replaces it; each job keeps the one that it began with.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) docker: docker::Client,
    pub(super) settings: Settings,
    pub(super) agent: String,
    pub(super) owner: Option<Owner>,
    pub(super) are_canaries: bool,
    pub(super) jobs: Jobs,
    /// What the limit of image, container and start is called.
    pub(super) setup: &'static str,
    pub(super) pulls: Pulls,
    pub(super) images: Images,
    pub(super) unconfirmed: UnconfirmedContainers,
    pub(super) sampler: Sampler,
    pub(super) mounts: Mounts,
    /// The device that holds the engine's data, looked for once, when a rate is limited.
    pub(super) device: OnceLock<Result<String, String>>,
}

impl Shared {
    /// Creates the container, with a pull before it where the policy says so or the image is not there.
    pub(super) fn create(
        self: &Arc<Self>,
        image: &str,
        name: &str,
        body: &[u8],
        control: &Control,
        deadline: Deadline,
        output: &mut dyn Output,
    ) -> Result<Container, Error> {
        // To the end of the call: until then nothing removes it.
        let _taken = self.images.take(image, deadline, &|| control.is_wanted())?;
        if self.settings.pull_policy == PullPolicy::Always {
            self.pulls.ensure(image, &|| control.is_wanted(), deadline, output)?;
        }
        let create = || match self.docker.create(name, body, deadline) {
            Ok(id) => Ok(Container::new(self.docker.clone(), id)),
            Err(error) => {
                self.unconfirmed.note(name, &error);
                Err(error)
            }
        };
        match create() {
            Err(error) if error.is_missing_image() && self.settings.pull_policy == PullPolicy::IfNotPresent => {
                self.pulls.ensure(image, &|| control.is_wanted(), deadline, output)?;
                create()
            }
            Err(error) if error.is_missing_image() && self.settings.pull_policy == PullPolicy::Never => {
                Err(Error::Pull {
                    image: image.to_owned(),
                    message: "the engine does not have it and container.images.pullPolicy is never; \
                          load it on this host, or set ifNotPresent"
                        .to_owned(),
                })
            }
            result => result,
        }
    }

    /// The profile of system calls for the create request.
    pub(super) fn seccomp(&self, podman: bool) -> Result<Option<Cow<'_, str>>, Error> {
        seccomp::option(&self.settings.security.seccomp, podman).map_err(|error| Error::Protocol {
            doing: "give Podman the profile of system calls".to_owned(),
            what: format!("{error}; see container.security.seccompProfile"),
        })
    }

    /// The walls around a job, as facts for its receipt.
    pub(super) fn walls(&self) -> Facts {
        let (security, network) = (&self.settings.security, &self.settings.network);
        let (uid, gid) = security.user;
        let profile = match &security.seccomp {
            Seccomp::Engine => None,
            Seccomp::Builtin => Some(seccomp::profile()),
            Seccomp::Profile { json, .. } => Some(json.as_str()),
        };
        let mut facts = vec![
            ("user", format!("{uid}:{gid}")),
            ("noNewPrivileges", security.no_new_privileges.to_string()),
            ("readOnlyRootfs", security.readonly_rootfs.to_string()),
            ("dropCapabilities", security.drop_capabilities.join(",")),
            ("seccompSha256", profile.map_or(String::new(), |text| sha256(text.as_bytes()))),
        ];
        if network.mode == NetworkMode::Isolated {
            facts.push(("networkInternal", network.internal.to_string()));
            facts.push(("networkIcc", network.enable_icc.to_string()));
        }
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Which image a container was made from. `name` is what it was asked for by.
    pub(super) fn image_facts(&self, id: &str, name: &str) -> Vec<(&'static str, String)> {
        if id.is_empty() {
            return Vec::new();
        }
        let digest = self.images.digest(name, id, || self.docker.image_digest(id, name));
        let digest = digest.unwrap_or_else(|error| {
            log::warn!("record and receipt do not say the image's digest: {error}");
            None
        });
        let digest = digest.map(|digest| ("imageDigest", digest));
        std::iter::once(("imageId", id.to_owned())).chain(digest).collect()
    }

    /// Asks the engine, unless its own profile is wanted. One that does not tell is believed: `doctor` tries the calls.
    pub(super) fn has_filter(&self) -> Result<(), Error> {
        if self.settings.security.seccomp == Seccomp::Engine {
            return Ok(());
        }
        let told = self.docker.info()?.security;
        if told.is_none_or(|options| options.iter().any(|option| option.starts_with("name=seccomp"))) {
            return Ok(());
        }
        Err(Error::Unfit {
            doing: "run jobs under a filter of system calls (container.security.seccompProfile)".to_owned(),
            what: "this engine has no seccomp: use an engine and a kernel with it, or set seccompProfile: engine, where every \
                   system call is open to scripts"
                .to_owned(),
        })
    }

    /// Makes the shared bridge, where jobs use it and it is missing.
    pub(super) fn network(&self) -> Result<(), Error> {
        if self.settings.network.mode == NetworkMode::Isolated {
            self.docker.ensure_bridge(self.bridge())
        } else {
            Ok(())
        }
    }

    fn bridge(&self) -> Bridge {
        Bridge { icc: self.settings.network.enable_icc, internal: self.settings.network.internal }
    }

    /// The network's name for the create request.
    pub(super) fn network_name(&self) -> String {
        match &self.settings.network.mode {
            NetworkMode::Isolated => self.bridge().name().to_owned(),
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Bridge => "bridge".to_owned(),
            NetworkMode::Named(name) => name.clone(),
        }
    }

    /// The name servers of the create request; empty where the engine uses this host's.
    ///
    /// Docker before 26.0 forwards questions of a job on an internal network to this host's name servers (CVE-2024-29018),
    /// but asks one that is named here from inside the job's network: there nobody listens at the loopback's address.
    pub(super) fn dns(&self) -> Cow<'_, [String]> {
        let network = &self.settings.network;
        match network.mode {
            NetworkMode::Isolated if network.internal && network.dns.is_empty() => vec![NOBODY.to_owned()].into(),
            _ => network.dns.as_slice().into(),
        }
    }

    /// The device on which rates are limited; none when there is no rate to limit.
    pub(super) fn device(&self, set: &ResourceSet) -> Result<Option<String>, Error> {
        if [set.read_bps, set.write_bps, set.read_iops, set.write_iops].iter().all(Option::is_none) {
            return Ok(None);
        }
        let found = self.device.get_or_init(|| {
            if !self.docker.is_local() {
                return Err("the engine is on another host".to_owned());
            }
            let root = self.docker.info().map_err(|error| error.to_string())?.root;
            crate::os::device::below(Path::new(&root))
        });
        match found {
            Ok(device) => Ok(Some(device.clone())),
            // A limit that cannot be kept is not left out silently.
            Err(what) => Err(Error::Protocol {
                doing: "find the device for container.resources.*.readBps, writeBps, readIops, writeIops".to_owned(),
                what: what.clone(),
            }),
        }
    }
}
