/* The plugin's own interpreter: CPython in a static program, with the plugin behind it in the same file.
 *
 * The file is a program and a zip archive at once. The program's modules in C are below; all others come out of the
 * archive. Nothing of the machine is looked at: no library, no loader, no environment variable, no directory.
 */

#include <Python.h>

/* By its inode: the file may have been replaced since it was started. */
static const wchar_t ARCHIVE[] = L"/proc/self/exe";

/* What __main__.py of the archive does, as the zipapp's first line does it: runpy would take 5 ms. */
static const char MAIN[] =
    "from cni.protocol import main\n"
    "main()\n";

#define MODULES(M) \
    M(_abc) M(_ast) M(_bisect) M(_blake2) M(_codecs) M(_collections) M(_contextvars) M(_datetime) M(_functools) \
    M(_heapq) M(_imp) M(_io) M(_json) M(_locale) M(_md5) M(_opcode) M(_operator) M(_pickle) M(_posixsubprocess) \
    M(_random) M(_sha1) M(_sha256) M(_sha3) M(_sha512) M(_signal) M(_socket) M(_sre) M(_stat) M(_string) M(_struct) \
    M(_symtable) M(_thread) M(_tokenize) M(_tracemalloc) M(_weakref) M(array) M(atexit) M(binascii) M(errno) \
    M(faulthandler) M(fcntl) M(gc) M(grp) M(itertools) M(math) M(posix) M(pwd) M(select) M(time)
#define DECLARATION(NAME) extern PyObject *PyInit_##NAME(void);
#define ENTRY(NAME) {#NAME, PyInit_##NAME},

MODULES(DECLARATION)
extern PyObject *PyMarshal_Init(void);
extern PyObject *_PyWarnings_Init(void);

/* In the place of libpython's own table, so that the linker takes what is here and no more. */
struct _inittab _PyImport_Inittab[] = {
    MODULES(ENTRY)
    {"marshal", PyMarshal_Init},
    {"_warnings", _PyWarnings_Init},
    {"builtins", NULL},
    {"sys", NULL},
    {NULL, NULL},
};

static PyStatus
configure(PyConfig *config, int argc, char **argv)
{
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) {
        return status;
    }
    PyConfig_InitIsolatedConfig(config);
    config->site_import = 0;
    config->write_bytecode = 0;
    config->parse_argv = 0;
    config->pathconfig_warnings = 0;
    /* A pipe whose reader has gone is an error, not the end. */
    config->install_signal_handlers = 1;
    config->module_search_paths_set = 1;
    status = PyWideStringList_Append(&config->module_search_paths, ARCHIVE);
    wchar_t **places[] = {
        &config->executable, &config->base_executable, &config->prefix, &config->base_prefix, &config->exec_prefix,
        &config->base_exec_prefix, &config->stdlib_dir, &config->program_name,
    };
    for (size_t at = 0; at < Py_ARRAY_LENGTH(places) && !PyStatus_Exception(status); at++) {
        status = PyConfig_SetString(config, places[at], ARCHIVE);
    }
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesArgv(config, argc, argv);
    }
    return status;
}

int
main(int argc, char **argv)
{
    PyConfig config;
    PyStatus status = configure(&config, argc, argv);
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    if (PyStatus_Exception(status)) {
        Py_ExitStatusException(status);
    }
    PyConfig_Clear(&config);
    /* main() of the plugin ends the process: what comes back has failed, and has been printed. */
    PyRun_SimpleString(MAIN);
    return 1;
}
