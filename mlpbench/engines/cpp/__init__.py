"""The engine in C++, and the compiler driver of all C++."""
