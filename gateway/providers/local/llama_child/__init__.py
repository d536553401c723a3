"""The llama-cpp-python engine: a small program of its own around the package, run as a child of the gateway.

    python -m gateway.providers.local.llama_child --socket PATH --model FILE

The package's own server cannot cancel (an abandoned prefill held the engine for 44 s), cuts a running stream when the
next request comes, has no health, sends no usage in streams and answers bad input with 500s. This one answers the same
OpenAI requests from the same package, listens before the model is there, and gives the engine back when a caller
leaves.

    __main__     the socket first, then everything else; the end of the program
    arguments    the command line
    news         how far loading is: told to /health and, line by line, to the gateway
    server       HTTP: routes, event streams, errors
    parameters   what a request may ask for, with which types (pure)
    refusals     errors in OpenAI's shape (pure)
    engine       one thread, one line of jobs, one running; cancelling
    brake        the flag that stops the engine in the middle of its work
    loading      from a file to a model: reading, progress, why it failed
    model        llama_cpp.Llama with a brake, true counts and log probabilities
    embedder     a second, small context on the same weights
    grammars     JSON schemas and grammars, checked before they reach native code
    answers      one request on the model: the package's answers, made whole

It imports nothing else of the gateway (it may run under another Python, one that has llama_cpp), reads nothing from its
environment, and only `loading`, `model`, `embedder`, `grammars` and `answers` import llama_cpp, from the engine's
thread.
"""
