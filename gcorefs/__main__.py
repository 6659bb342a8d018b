from gcorefs.cli import main

main()
