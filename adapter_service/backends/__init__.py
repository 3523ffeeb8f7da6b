"""Servers of others that answer in the engine's place: llama.cpp in a child process, or vLLM on other machines.

server.py        the seam: what one kind of server has to do
dispatcher.py    requests to it, on a thread with an event loop: `engine.backend.Backend`
held_adapters.py which versions are loaded there
llama.py         llama.cpp: a child with a list of adapters, replaced when the list changes
vllm.py          vLLM: several servers, adapters loaded and unloaded while they run
"""
