# One agent on each Nomad client that has the Docker driver: `nomad job run cronium-agent.nomad.hcl`.
#
# Before: on each client, a host volume for the state,
#
#   client { host_volume "cronium-state" { path = "/var/lib/cronium-agent" } }      # owned by 65532:65532, mode 0700
#   plugin "docker" { config { volumes { enabled = true } } }                       # for the engine's socket
#
# and the token: `nomad var put nomad/jobs/cronium-agent api_token=@api-token` (Nomad 1.6 or newer, for group_add).
#
# Think first: jobs run in the client's Docker engine, outside of Nomad, which does not see what they use. The task has the
# engine's socket, which is as good as root on the client: submit this job in a separate namespace.
#
# Validated by tests that check the balance of the blocks, the names, the ports and each lock below
# (tests/integration/fleet.rs). Not run by Nomad yet, and not read by an HCL parser.
job "cronium-agent" {
  type        = "system"
  datacenters = ["*"]

  constraint {
    attribute = "${attr.driver.docker}"
    value     = "1"
  }

  # One client drains at a time.
  update {
    max_parallel     = 1
    min_healthy_time = "15s"
    healthy_deadline = "10m"
  }

  group "agent" {
    network {
      port "health" { to = 8080 }
      port "metrics" { to = 9090 }
    }

    volume "state" {
      type   = "host"
      source = "cronium-state"
    }

    service {
      name     = "cronium-agent"
      provider = "nomad"
      port     = "metrics"
    }

    service {
      name     = "cronium-agent-health"
      provider = "nomad"
      port     = "health"

      # /live, not /ready: a restart does not help an agent whose backend is away.
      check {
        type     = "http"
        path     = "/live"
        interval = "20s"
        timeout  = "5s"
        check_restart {
          limit = 3
          grace = "60s"
        }
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    task "agent" {
      driver = "docker"
      user   = "65532:65532"

      # More than jobs.drainTimeout (5m) and what follows it. The client's max_kill_timeout has to allow it.
      kill_timeout = "8m"
      kill_signal  = "SIGTERM"

      config {
        image           = "cronium/agent:0.2.0"
        args            = ["run"]
        ports           = ["health", "metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        # The group of /var/run/docker.sock on the clients: `stat -c %g /var/run/docker.sock`.
        group_add = ["999"]
        volumes   = ["/var/run/docker.sock:/var/run/docker.sock"]
      }

      volume_mount {
        volume      = "state"
        # As on the client: its engine mounts the sockets of running scripts from below it.
        destination = "/var/lib/cronium-agent"
      }

      env {
        CRONIUM_API_ENDPOINT            = "https://cronium.example:5001"
        CRONIUM_API_TOKEN_FILE          = "${NOMAD_SECRETS_DIR}/api-token"
        CRONIUM_MONITORING_BIND_ADDRESS = "0.0.0.0"
        CRONIUM_STATE_DIR               = "/var/lib/cronium-agent"
      }

      template {
        data        = "{{ with nomadVar \"nomad/jobs/cronium-agent\" }}{{ .api_token }}{{ end }}"
        destination = "${NOMAD_SECRETS_DIR}/api-token"
        uid         = 65532
        gid         = 65532
        perms       = "0400"
        change_mode = "restart"
      }

      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
