"""The program that makes GGUF files for llama.cpp: it quantises one, writes one in Ollama's dialect anew, and
turns a LoRA adapter into one.

A child process runs it in the sandbox. Nothing else imports it, because it loads llama.cpp's library.
"""
