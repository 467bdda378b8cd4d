# One agent on each Nomad client that has the Docker driver: `nomad job run cronium-agent.nomad.hcl`.
#
# Before: on each client, a host volume for the state,
#
#   client { host_volume "cronium-state" { path = "/var/lib/cronium-agent" } }      # owned by 65532:65532, mode 0700
#   plugin "docker" { config {
#     volumes { enabled = true }                                                    # for the engine's socket
#     allow_caps = [ … ]                                                            # Nomad's own list and "net_admin", for the firewall
#   } }
#
# and the token: `nomad var put nomad/jobs/cronium-agent api_token=@api-token` (Nomad 1.6 or newer, for group_add).
#
# Think first: jobs run in the client's Docker engine, outside of Nomad, which does not see what they use. The task has the
# engine's socket, which is as good as root on the client: submit this job in a separate namespace.
#
# Read by an HCL parser, and compared with a list of Nomad's blocks and keys (scripts/manifests.sh); tests check the names, the ports
# and each lock below (tests/integration/fleet.rs). Not run by Nomad yet.
job "cronium-agent" {
  type        = "system"
  datacenters = ["*"]

  constraint {
    attribute = "${attr.driver.docker}"
    value     = "1"
  }

  # One client after the other. Nomad before 1.11 waits no longer than stagger between two of them.
  update {
    max_parallel     = 1
    stagger          = "60s"
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

    # Closes metadata services for jobs, before the agent starts: docs/operations.md, "Firewall". The rules stay until the client
    # starts anew. Without the image of configs/firewall/Dockerfile take this task out.
    task "firewall" {
      driver = "docker"

      lifecycle {
        hook = "prestart"
      }

      config {
        image           = "cronium/firewall:0.2.0"
        args            = ["once"]
        network_mode    = "host"
        readonly_rootfs = true
        cap_drop        = ["all"]
        cap_add         = ["net_admin"]
        security_opt    = ["no-new-privileges"]
        mount {
          type   = "tmpfs"
          target = "/etc/cronium"
        }
        mount {
          type   = "tmpfs"
          target = "/etc/systemd"
        }
      }

      env {
        # Or strict.
        MODE = "metadata"
      }

      resources {
        cpu    = 50
        memory = 64
      }
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
        CRONIUM_MONITORING_PAGE         = "false"
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
