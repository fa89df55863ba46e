"""What a request can see of its worker, as a dict of texts. Runs in the worker, as a cell.

Nothing in it names an object by its address or depends on the time or on the process.
"""

PROBE = r"""
def _probe():
    import asyncio, builtins, decimal, gc, locale, logging, os, random, resource, signal, socket
    import sys, tempfile, threading, time, tracemalloc, warnings

    seen = {}

    def name(thing):
        if thing is None or isinstance(thing, (str, int, float, bool, tuple, list)):
            return repr(thing)
        module = getattr(thing, "__module__", type(thing).__module__)
        return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"

    def names(things):
        return [name(thing) for thing in things]

    ip = get_ipython()
    user = ip.user_ns
    seen["names"] = sorted(n for n in user if n != "_probe")
    seen["results"] = [user[n] for n in ("_", "__", "___", "_i", "_ii")] + [dict(user["Out"])]
    seen["In"] = len(user["In"])
    seen["count"] = ip.execution_count
    seen["functions"] = [name(user[n]) for n in ("open", "exit", "quit", "get_ipython") if n in user]
    seen["last"] = [n for n in vars(sys) if n.startswith("last_")]
    seen["cwd"] = os.getcwd()
    seen["environ"] = sorted(item for item in os.environ.items() if item[0] != "PYTEST_CURRENT_TEST")
    seen["getenv"] = os.popen("echo $PROBED $TZ").read()
    seen["timezone"] = time.tzname
    seen["path"] = list(sys.path)
    seen["argv"] = sys.argv[:-1] + [os.path.basename(a) for a in sys.argv[-1:]]
    seen["finders"] = names(sys.meta_path) + names(sys.path_hooks)
    seen["streams"] = [(name(s), s is o) for s, o in
                       ((sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__),
                        (sys.stdin, sys.__stdin__))]
    seen["sys hooks"] = names(getattr(sys, n, None) for n in
                              ("displayhook", "excepthook", "breakpointhook", "unraisablehook"))
    seen["sys"] = names(getattr(sys, n, "unset") for n in
                        ("ps1", "tracebacklimit", "dont_write_bytecode", "pycache_prefix"))
    seen["threading"] = names((threading.excepthook, threading._profile_hook,
                               threading._trace_hook, threading.stack_size()))
    # Those of a pool that nobody has any more end by themselves, in their own time.
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(10)
    seen["threads"] = sorted(t.name for t in threading.enumerate() if "Thread-" not in t.name)
    seen["trace"] = (sys.gettrace(), sys.getprofile(), tracemalloc.is_tracing())
    seen["builtins"] = sorted((n, name(v)) for n, v in vars(builtins).items()
                              if n not in ("_", "__builtins__"))
    seen["injected"] = sorted(n for n, m in sys.modules.items()
                              if n.startswith("probed") or m is None)
    seen["main"] = sys.modules["__main__"].__dict__ is user
    seen["limits"] = (sys.getrecursionlimit(), sys.getswitchinterval(),
                      getattr(sys, "get_int_max_str_digits", int)())
    seen["gc"] = (gc.isenabled(), gc.get_threshold(), gc.get_debug())
    seen["warnings"] = [(f[0], getattr(f[1], "pattern", f[1]), name(f[2]),
                         getattr(f[3], "pattern", f[3]), f[4]) for f in warnings.filters]
    seen["warnings shown"] = names((warnings.showwarning, warnings.formatwarning))
    loggers = {n: logging.getLogger(n) for n, l in logging.root.manager.loggerDict.items()
               if not isinstance(l, logging.PlaceHolder)}
    loggers[""] = logging.root
    states = {n: (l.level, l.propagate, l.disabled, names(l.handlers), names(l.filters))
              for n, l in loggers.items()}
    seen["loggers"] = sorted((n, s) for n, s in states.items() if s != (0, True, False, [], []))
    seen["logging"] = (logging.root.manager.disable, logging.raiseExceptions,
                       logging.getLevelName(30), logging.getLevelName(77),
                       name(logging.getLoggerClass()), name(logging.getLogRecordFactory()))
    seen["signals"] = sorted((int(s), name(signal.getsignal(s))) for s in signal.valid_signals())
    seen["timers"] = [signal.getitimer(t)[0] > 0 for t in (0, 1, 2)]
    seen["mask"] = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
    seen["locale"] = locale.setlocale(locale.LC_ALL)
    umask = os.umask(0)
    os.umask(umask)
    seen["process"] = (umask, os.nice(0), sorted(getattr(os, "sched_getaffinity", set)(0))
                       if hasattr(os, "sched_getaffinity") else None)
    seen["rlimits"] = sorted((n, resource.getrlimit(v)) for n, v in vars(resource).items()
                             if n.startswith("RLIMIT"))
    seen["sockets"] = socket.getdefaulttimeout()
    seen["temporary"] = tempfile.tempdir
    seen["decimal"] = (decimal.getcontext().prec, repr(decimal.DefaultContext))
    seen["policy"] = name(asyncio.events._event_loop_policy)
    monitoring = getattr(sys, "monitoring", None)
    seen["monitoring"] = monitoring and [
        *(monitoring.get_tool(i) for i in range(6)),
        name(monitoring.register_callback(3, monitoring.events.LINE, None))]
    loop = asyncio.get_running_loop()
    seen["tasks"] = sum("PoolKernel" not in str(t.get_coro()) for t in asyncio.all_tasks(loop))
    seen["scheduled"] = sum(not h.cancelled() for h in loop._scheduled)

    # -- IPython
    seen["magics"] = {k: sorted(v) for k, v in ip.magics_manager.lsmagic().items()}
    seen["events"] = {k: names(v) for k, v in ip.events.callbacks.items()}
    manager = ip.input_transformer_manager
    seen["transformers"] = [names(t) for t in (
        ip.ast_transformers, ip.input_transformers_post, manager.cleanup_transforms,
        manager.line_transforms, manager.token_transformers)]
    formatters = {**ip.display_formatter.formatters, "": ip.display_formatter.mimebundle_formatter}
    figure = lambda cls: "Figure" in str(cls)
    seen["formatters"] = {
        m: (f.enabled, sorted(name(c) for c in f.type_printers if not figure(c)),
            sorted(map(str, f.deferred_printers)))
        for m, f in formatters.items()}
    text = ip.display_formatter.formatters["text/plain"]
    seen["printing"] = (text.pprint, text.float_format, text.max_seq_length, text.max_width,
                        sorted(ip.display_formatter.active_types))
    seen["extensions"] = sorted(ip.extension_manager.loaded)
    seen["shell"] = (ip.ast_node_interactivity, ip.autoawait, ip.automagic, ip.colors,
                     ip.InteractiveTB.mode, ip.compile.flags, name(ip.CustomTB),
                     ip.logger.log_active, ip.Completer.greedy)

    # -- libraries, where they are loaded
    def loaded(module, attribute):
        return getattr(sys.modules.get(module), attribute, None)

    if rc := loaded("matplotlib", "rcParams"):
        seen["rcParams"] = sorted((k, str(v)) for k, v in dict.items(rc) if k != "backend")
        seen["colormaps"] = sorted(sys.modules["matplotlib"].colormaps)
        pyplot = sys.modules.get("matplotlib.pyplot")
        seen["figures"] = pyplot and pyplot.get_fignums()
    if describe := loaded("pandas", "describe_option"):
        options = loaded("pandas._config.config", "_registered_options")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen["pandas"] = [(k, str(sys.modules["pandas"].get_option(k))) for k in sorted(options)]
    if loaded("numpy", "get_printoptions"):
        numpy = sys.modules["numpy"]
        seen["numpy"] = (str(numpy.get_printoptions()), numpy.geterr(), numpy.getbufsize(),
                         name(numpy.geterrcall()))
    if read := loaded("sklearn", "get_config"):
        seen["sklearn"] = sorted(read().items())
    return {key: repr(value) for key, value in seen.items()}

seen = _probe()
del _probe
"""
