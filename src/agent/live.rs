//! How the lines of jobs reach their viewers: the live log over the WebSocket, updates of each execution, or not at all.

use crate::config::token::Token;
use crate::config::types::{Config, LiveWay};
use crate::jobs::poller::Slots;
use crate::jobs::running::Running;
use crate::limits;
use crate::logs::{LogStreamer, ServerEvent, Settings as LiveSettings};
use crate::os::pulse::Pulses;
use crate::os::threads::Thread;

/// How lines reach their viewers. `logging.websocket.enabled: false` is older, and means that they do not.
pub(super) fn way(config: &Config) -> LiveWay {
    match config.logging.live {
        LiveWay::Auto | LiveWay::Websocket if !config.logging.websocket.enabled => LiveWay::Off,
        way => way,
    }
}

/// The live log, or none where it is not wanted.
pub(super) fn log(
    config: &Config,
    (id, token): (&str, &Token),
    running: &Running,
    slots: &Slots,
    pulses: &Pulses,
) -> Result<(LogStreamer, Option<Thread>), String> {
    if !matches!(way(config), LiveWay::Auto | LiveWay::Websocket) {
        return Ok((LogStreamer::disabled(), None));
    }
    let settings = LiveSettings {
        url: config.api.ws_endpoint.clone(),
        proxy: config.api.ws_way.proxy.clone(),
        token: token.clone(),
        orchestrator_id: id.to_owned(),
        version: crate::cli::version::VERSION.to_owned(),
        live: config.logging.websocket,
        tls: config.tls.clone(),
    };
    let (running, slots) = (running.clone(), slots.clone());
    let on_event = move |event| match event {
        ServerEvent::Cancel(job) => {
            if !running.cancel(&job, "backend (websocket)") {
                log::info!("the backend cancels job {job}, which does not run here");
            }
        }
        ServerEvent::JobsQueued => slots.kick(),
    };
    let pulse = pulses.part("live log", limits::PULSE_LIVE_LOG);
    LogStreamer::start(settings, pulse, Box::new(on_event))
        .map(|(streamer, thread)| (streamer, Some(thread)))
        .map_err(|error| format!("the live log cannot start: {error}"))
}
