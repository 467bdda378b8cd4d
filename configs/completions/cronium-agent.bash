# shellcheck shell=bash
# Made from the program's tables: CRONIUM_WRITE_DOCS=1 cargo test --lib reference

_cronium_agent() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' words='' typed=0 at
    # Bash makes three words of --flag=value.
    [ "$word" != = ] || word=''
    [ "$before" != = ] || before=${COMP_WORDS[COMP_CWORD - 2]}
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            --lang | -e | --env | --timeout | --memory | --cpu | --network | --image | --server | --identity | --certificate | --jump | --input | --variables | --migrate | --grace | --key | --name | --keys | --job | --stdout | --stderr | --expires | -c | --config | --log-level | --set)
                ((at += 1))
                [ "${COMP_WORDS[at]}" != = ] || ((at += 1))
                ;;
            -?*) ;;
            *) if [ -z "$command" ]; then command=${COMP_WORDS[at]}; else ((typed += 1)); fi ;;
        esac
    done
    case $before in
        --lang | -e | --env | --timeout | --memory | --cpu | --network | --image | --server | --identity | --certificate | --jump | --input | --variables | --migrate | --grace | --key | --name | --keys | --job | --stdout | --stderr | --expires | -c | --config | --log-level | --set)
            case $before in
                --lang) words='bash python node' ;;
                --identity) compopt -o filenames; words=FILES ;;
                --certificate) compopt -o filenames; words=FILES ;;
                --variables) compopt -o filenames; words=FILES ;;
                --migrate) compopt -o filenames; words=FILES ;;
                --key) compopt -o filenames; words=FILES ;;
                --keys) compopt -o filenames; words=FILES ;;
                --job) compopt -o filenames; words=FILES ;;
                --stdout) compopt -o filenames; words=FILES ;;
                --stderr) compopt -o filenames; words=FILES ;;
                -c | --config) compopt -o filenames; words=FILES ;;
                --log-level) words='off error warn info debug trace' ;;
                --set) compopt -o nospace; words='orchestrator.id= orchestrator.name= orchestrator.environment= orchestrator.region= orchestrator.tags= api.endpoint= api.tokenFile= api.wsEndpoint= api.proxy= api.timeout= api.retry.maxAttempts= api.retry.initialDelay= api.retry.maxDelay= api.retry.backoffType= api.rateLimit.enabled= api.rateLimit.requestsPerSecond= jobs.types= jobs.pollInterval= jobs.maxPollInterval= jobs.pollBatchSize= jobs.maxConcurrent= jobs.defaultTimeout= jobs.maxTimeout= jobs.setupTimeout= jobs.cleanupTimeout= jobs.stopGrace= jobs.drainTimeout= jobs.queueStrategy= jobs.onShutdown= jobs.reportRetention= jobs.leaseRenewal= jobs.stopAfterLost= jobs.maxOutput= jobs.maxScriptOutput= jobs.requireProof= jobs.proofMaxAge= container.docker.endpoint= container.docker.version= container.docker.tlsVerify= container.docker.certPath= container.images.bash= container.images.python= container.images.nodejs= container.images.pullPolicy= container.images.requireDigest= container.images.prePull= container.images.prune.high= container.images.prune.low= container.images.prune.keep= container.registryAuthFile= container.resources.defaults.cpu= container.resources.defaults.memory= container.resources.defaults.disk= container.resources.defaults.pids= container.resources.defaults.readBps= container.resources.defaults.writeBps= container.resources.defaults.readIops= container.resources.defaults.writeIops= container.resources.limits.cpu= container.resources.limits.memory= container.resources.limits.disk= container.resources.limits.pids= container.resources.limits.readBps= container.resources.limits.writeBps= container.resources.limits.readIops= container.resources.limits.writeIops= container.security.user= container.security.noNewPrivileges= container.security.dropCapabilities= container.security.readOnlyRootfs= container.security.seccompProfile= container.network.mode= container.network.enableICC= container.network.internal= container.network.dns= container.warm.bash= container.warm.python= container.warm.nodejs= container.warm.maxIdle= container.warm.minFreeMemory= ssh.connectionPool.maxPerServer= ssh.connectionPool.idleTimeout= ssh.connectionPool.healthCheckInterval= ssh.connectionPool.connectionTimeout= ssh.execution.defaultShell= ssh.execution.tempDir= ssh.execution.cleanupAfter= ssh.execution.ptyMode= ssh.execution.reconnectTimeout= ssh.circuitBreaker.enabled= ssh.circuitBreaker.failureThreshold= ssh.circuitBreaker.successThreshold= ssh.circuitBreaker.timeout= ssh.circuitBreaker.halfOpenRequests= ssh.security.strictHostKeyChecking= ssh.security.knownHostsFile= ssh.security.allowedCiphers= ssh.security.allowedKeyExchanges= ssh.security.allowPasswords= ssh.hosts= ssh.jumps= http.enabled= http.allow= http.maxResponse= http.maxRedirects= http.caFile= redact.environment= redact.names= redact.variables= logging.level= logging.format= logging.output= logging.file.path= logging.file.maxSize= logging.file.maxBackups= logging.file.maxAge= logging.live= logging.websocket.enabled= logging.websocket.bufferSize= logging.websocket.flushInterval= logging.websocket.batchSize= monitoring.enabled= monitoring.bindAddress= monitoring.healthPort= monitoring.metricsPort= monitoring.page= security.tls.enabled= security.tls.caFile= security.tls.certFile= security.tls.keyFile= security.signatures.mode= security.signatures.keys= security.signatures.maxAge= security.allowedScripts= security.receipts= state.dir= state.runtimeDir= state.minFreeDisk=' ;;
            esac
            ;;
        *)
            case $word in
                -*)
                    words='-c --config --log-level --set -h --help -V --version'
                    case $command in
                        validate) words+=' --migrate --explain' ;;
                        doctor) words+=' --json --fix-hints --strict' ;;
                        status) words+=' --json' ;;
                        exec) words+=' --lang -e --env --timeout --memory --cpu --network --image --server --identity --certificate --jump --input --variables --json' ;;
                        known-hosts) words+=' -y --yes' ;;
                        gc) words+=' --dry-run --images --grace' ;;
                        sign) words+=' --key --name --keys --expires' ;;
                        verify-receipt) words+=' --keys --job --stdout --stderr' ;;
                    esac
                    ;;
                *)
                    case $command.$typed in
                        .0) words='run validate doctor status reload cancel exec known-hosts gc sign identity verify-receipt version' ;;
                        exec.0) compopt -o filenames; words=FILES ;;
                        known-hosts.0) words='add' ;;
                        sign.0) words='keygen job verify scripts' ;;
                        sign.1) compopt -o filenames; words=FILES ;;
                        verify-receipt.0) compopt -o filenames; words=FILES ;;
                    esac
                    ;;
            esac
            ;;
    esac
    if [ "$words" = FILES ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    fi
}
complete -F _cronium_agent cronium-agent
